// Bags of different lengths, one after the other in one bag of all instances: each is a problem of
// its own, which the kernels of its family solve. Short bags are put together to tasks worth
// handing out; a bag longer than a thread's share of all is run on all threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.h"
#include "slice.h"

namespace milkernels {

// Bag b has the instances offsets[b] to offsets[b + 1].
struct Packing {
  const int64_t* offsets = nullptr;
  int64_t bags = 0;
  Bytes bytes;

  int64_t length(int64_t bag) const { return offsets[bag + 1] - offsets[bag]; }

  // Throws where a bag would reach out of the instances: kernels trust what they get.
  void check(int64_t instances) const {
    for (int64_t bag = 0; bag < bags; ++bag)
      if (offsets[bag] < 0 || offsets[bag + 1] < offsets[bag] || offsets[bag + 1] > instances)
        throw std::invalid_argument("offsets: expected bag " + std::to_string(bag) + " among the " +
                                    std::to_string(instances) + " instances, got " +
                                    std::to_string(offsets[bag]) + " to " +
                                    std::to_string(offsets[bag + 1]));
  }
};

// Bags that are run one after the other, and what they cost.
struct Batch {
  int64_t first = 0;
  int64_t last = 0;
  int64_t elements = 0;
};

// What a bag costs besides its instances, in instances.
constexpr int64_t kBagInstances = 4;
constexpr int64_t kBatchElements = 32768;

// Consecutive bags until a batch is large enough. No batch but of one bag is larger than two.
inline std::vector<Batch> batches_of(const Packing& packing, int64_t classes) {
  std::vector<Batch> batches;
  Batch batch;
  for (int64_t bag = 0; bag < packing.bags; ++bag) {
    const int64_t elements = (packing.length(bag) + kBagInstances) * classes;
    const bool full = batch.elements + elements > kBatchElements;
    if (full && batch.last > batch.first) {
      batches.push_back(batch);
      batch = {bag, bag, 0};
    }
    batch.last = bag + 1;
    batch.elements += elements;
  }
  if (batch.last > batch.first) batches.push_back(batch);
  return batches;
}

// Runs pool(part, bag, scratch) for each bag: `part` is its slice of `whole`, `scratch` memory that
// the thread reuses. What a bag's kernel computes does not depend on the threads that it runs on.
template <class P, class Pool>
void pool_bags(const P& whole, const Packing& packing, const Pool& pool) {
  packing.check(whole.frames);
  const auto run = [&](int64_t bag, int threads, std::vector<double>& scratch) {
    P part =
        sliced(whole, {{0, 1}, {0, whole.classes}, {packing.offsets[bag], packing.length(bag)}},
               packing.bytes);
    part.threads = threads;
    pool(part, bag, scratch);
  };
  std::vector<Batch> batches = batches_of(packing, whole.classes);
  // The largest first: they are the ones to wait for.
  std::stable_sort(batches.begin(), batches.end(),
                   [](const Batch& a, const Batch& b) { return a.elements > b.elements; });
  int64_t elements = 0;
  for (const Batch& batch : batches) elements += batch.elements;
  const int64_t threads = whole.threads > 1 ? whole.threads : 1;
  size_t done = 0;
  std::vector<double> shared;
  for (; threads > 1 && done < batches.size(); ++done) {
    const Batch& batch = batches[done];
    if (batch.last - batch.first > 1 || batch.elements <= elements / threads) break;
    run(batch.first, whole.threads, shared);
  }
  std::atomic<size_t> next{done};
  parallel_for(threads, elements, whole.threads, [&](int64_t) {
    std::vector<double> scratch;
    for (size_t index = next++; index < batches.size(); index = next++)
      for (int64_t bag = batches[index].first; bag < batches[index].last; ++bag)
        run(bag, 1, scratch);
  });
}

// Memory for at least `count` values.
inline void* at_least(std::vector<double>& scratch, int64_t count) {
  if (scratch.size() < static_cast<size_t>(count)) scratch.resize(static_cast<size_t>(count));
  return scratch.data();
}

// The place of a bag's values, `count` of them for each, of `bytes` each.
inline void* of_bag(void* values, int64_t bag, int64_t count, int64_t bytes) {
  return static_cast<char*>(values) + bag * count * bytes;
}
inline const void* of_bag(const void* values, int64_t bag, int64_t count, int64_t bytes) {
  return static_cast<const char*>(values) + bag * count * bytes;
}

// A learned parameter's gradient (classes,): the bags' shares (bags, classes), in order, with what
// each addition loses.
template <class T>
void sum_shares(const T* shares, int64_t bags, int64_t classes, T* gradient) {
  std::vector<double> sums(static_cast<size_t>(2 * classes));
  double* sum = sums.data();
  double* lost = sum + classes;
  for (int64_t bag = 0; bag < bags; ++bag) {
    for (int64_t index = 0; index < classes; ++index) {
      const double term = shares[bag * classes + index];
      const double next = sum[index] + term;
      const double added = next - sum[index];
      lost[index] += (sum[index] - (next - added)) + (term - added);
      sum[index] = next;
    }
  }
  for (int64_t index = 0; index < classes; ++index)
    gradient[index] = static_cast<T>(sum[index] + lost[index]);
}

// The bags' shares of learned parameters' gradients, for as many as there are.
class Shares {
 public:
  Shares(const Packing& packing, int64_t classes, std::vector<void*> gradients)
      : bags_(packing.bags),
        classes_(classes),
        bytes_(packing.bytes.arithmetic),
        gradients_(std::move(gradients)),
        values_(gradients_.size()) {
    for (size_t index = 0; index < gradients_.size(); ++index)
      if (gradients_[index] != nullptr)
        values_[index].resize(static_cast<size_t>(bags_ * classes_ * bytes_ + bytes_));
  }

  // Where a bag's share of a parameter's gradient goes; null if nothing asks for that.
  void* of(size_t parameter, int64_t bag) {
    if (gradients_[parameter] == nullptr) return nullptr;
    return of_bag(values_[parameter].data(), bag, classes_, bytes_);
  }

  void sum() const {
    for (size_t index = 0; index < gradients_.size(); ++index) {
      if (gradients_[index] == nullptr) continue;
      const void* values = values_[index].data();
      if (bytes_ == sizeof(double))
        sum_shares(static_cast<const double*>(values), bags_, classes_,
                   static_cast<double*>(gradients_[index]));
      else
        sum_shares(static_cast<const float*>(values), bags_, classes_,
                   static_cast<float*>(gradients_[index]));
    }
  }

 private:
  int64_t bags_;
  int64_t classes_;
  int64_t bytes_;
  std::vector<void*> gradients_;
  std::vector<std::vector<char>> values_;
};

}  // namespace milkernels
