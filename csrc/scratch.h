// Memory that one task works in.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

template <class T>
class Scratch {
 public:
  // Whole cache lines and at least one, so that vectors are aligned and an address exists.
  explicit Scratch(int64_t count) {
    constexpr size_t kLine = 64;
    const size_t lines = static_cast<size_t>(count) * sizeof(T) / kLine + 1;
    data_ = static_cast<T*>(std::aligned_alloc(kLine, lines * kLine));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T& operator[](int64_t index) { return data_[index]; }
  const T& operator[](int64_t index) const { return data_[index]; }
  T* at(int64_t index) { return data_ + index; }
  const T* at(int64_t index) const { return data_ + index; }

 private:
  T* data_;
};

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
