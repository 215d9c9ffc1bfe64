// How the kernels walk (bags, classes, frames) tensors. Frames contiguous: a task is a row of frames
// and lanes run along it. Classes contiguous: a task is a block of classes and lanes are classes.
#pragma once

#include "moments.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Frames taken at once in each lane, so that the peak is checked once for all of them.
constexpr int kGroup = 4;

// Vectors of classes that one task keeps its sums for.
constexpr int kClassVectors = 16;

template <class E>
const E* at(const FrameTensor& tensor, int64_t bag, int64_t class_index, int64_t frame) {
  return static_cast<const E*>(tensor.data) + bag * tensor.stride_bag +
         class_index * tensor.stride_class + frame * tensor.stride_frame;
}

template <class E>
E* at_mutable(const FrameTensor& tensor, int64_t bag, int64_t class_index, int64_t frame) {
  return const_cast<E*>(at<E>(tensor, bag, class_index, frame));
}

template <class E>
inline Vector<Arithmetic<E>> load_lanes(const E* from, int64_t count) {
  return count == kLanes<Arithmetic<E>> ? load(from) : load_first(from, count);
}

template <class E>
inline void store_lanes(E* to, Vector<Arithmetic<E>> value, int64_t count) {
  if (count == kLanes<Arithmetic<E>>)
    store(to, value);
  else
    store_first(to, value, count);
}

// Gradients of the bag values from `cell` on, and those values written.
template <class E, class P>
inline Vector<Arithmetic<E>> bag_gradients(const P& problem, int64_t cell, int64_t count) {
  if (problem.exact_bags)
    return load_lanes(static_cast<const Arithmetic<E>*>(problem.gradient) + cell, count);
  return load_lanes(static_cast<const E*>(problem.gradient) + cell, count);
}

template <class E, class P>
inline void store_bags(const P& problem, int64_t cell, Vector<Arithmetic<E>> y, int64_t count) {
  if (problem.exact_bags)
    store_lanes(static_cast<Arithmetic<E>*>(problem.y) + cell, y, count);
  else
    store_lanes(static_cast<E*>(problem.y) + cell, y, count);
}

template <class T>
inline Vector<T> load_coefficient(const void* values, int64_t class_index, int64_t count) {
  if (values == nullptr) return broadcast(T(1));
  return load_lanes(static_cast<const T*>(values) + class_index, count);
}

template <class T>
inline Vector<T> broadcast_coefficient(const void* values, int64_t class_index) {
  return broadcast(values == nullptr ? T(1) : static_cast<const T*>(values)[class_index]);
}

template <class T>
inline T* statistics_row(const AverageProblem& problem, int row) {
  return static_cast<T*>(problem.statistics) + row * problem.bags * problem.classes;
}

inline const uint8_t* mask_row(const Problem& problem, int64_t bag) {
  return problem.mask == nullptr ? nullptr : problem.mask + bag * problem.mask_stride_bag;
}

// Lanes of a row of frames that are real.
template <class T>
inline Integer<T> real_lanes(const Problem& problem, const uint8_t* mask, int64_t frame,
                             int64_t count) {
  if (mask == nullptr && count == kLanes<T>) return Integer<T>{} - 1;
  Integer<T> real = first_lanes<T>(count);
  if (mask == nullptr) return real;
  if (problem.mask_stride_frame == 1) return real & load_flags<T>(mask + frame, count);
  for (int64_t lane = 0; lane < count; ++lane)
    if (!mask[(frame + lane) * problem.mask_stride_frame]) real[lane] = 0;
  return real;
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
