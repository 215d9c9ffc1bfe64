// Frames of contiguous classes, some at once: a block of classes takes them before the next block's
// turn, so that its sums, which wait in memory, are little beside them.
#pragma once

#include <array>

#include "frames.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Walks a task's real frames, up to kMost at once. Masked ones are passed over whole: in this
// layout a frame is real for every class.
template <int kTensors, int64_t kMost = 64>
class FramesAtOnce {
 public:
  // With how far apart the frames of each tensor are, and whether no cache holds them.
  FramesAtOnce(const Problem& problem, const Stretch& task,
               const std::array<int64_t, kTensors>& strides, bool far)
      : mask_(mask_row(problem, task.bag)),
        mask_stride_(problem.mask_stride_frame),
        strides_(strides),
        most_(most(task.class_end - task.class_start, far)),
        next_(task.first),
        last_(task.last) {
    if (mask_ == nullptr)
      while (count_ < most_) add(count_);
  }

  // Goes on to the next ones. False if there are none.
  bool next() {
    first_ = next_;
    if (mask_ == nullptr) {
      count_ = last_ - first_ < most_ ? last_ - first_ : most_;
      next_ = first_ + count_;
    } else {
      for (count_ = 0; next_ < last_ && count_ < most_; ++next_)
        if (mask_[next_ * mask_stride_]) add(next_ - first_);
    }
    return count_ > 0;
  }

  int64_t count() const { return count_; }
  // The frame that they are counted from, and the k-th one's number.
  int64_t first() const { return first_; }
  int64_t number(int64_t k) const { return numbers_[k]; }
  // The same in elements of a tensor, and how far on the next ones are.
  int64_t offset(int64_t k, int tensor = 0) const { return offsets_[tensor][k]; }
  int64_t ahead(int tensor = 0) const { return most_ * strides_[tensor]; }

 private:
  // Few enough for the first cache, or for the second where nothing is fetched from memory besides.
  static int64_t most(int64_t classes, bool far) {
    constexpr int64_t kElements = 4096;
    const int64_t least = far ? 8 : 32;
    const int64_t frames = kElements / classes / 8 * 8;
    const int64_t wanted = frames < least ? least : frames;
    return wanted < kMost ? wanted : kMost;
  }

  void add(int64_t number) {
    numbers_[count_] = number;
    for (int tensor = 0; tensor < kTensors; ++tensor)
      offsets_[tensor][count_] = number * strides_[tensor];
    ++count_;
  }

  const uint8_t* mask_;
  int64_t mask_stride_;
  std::array<int64_t, kTensors> strides_;
  int64_t most_;
  int64_t first_ = 0;
  int64_t next_;
  int64_t last_;
  int64_t count_ = 0;
  int64_t numbers_[kMost];
  int64_t offsets_[kTensors][kMost];
};

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
