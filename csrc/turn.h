// Frames of few contiguous classes would fill few lanes of a vector: blocks of them are turned into
// rows of contiguous frames, and their gradients back.
#pragma once

#include "frames.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Frames of a block, and from one row's first value to the next one's: a cache line more, so that
// rows of several blocks do not fall on the same lines.
constexpr int64_t kBlockFrames = 256;
constexpr int64_t kRowStride = kBlockFrames + 16;

template <class E>
constexpr bool kTurns = std::is_same_v<E, float> && kLanes<float> >= 8;

// With scores beside x there is twice as much to turn.
template <class E, bool kScores>
bool is_turned(const Problem& problem) {
  return kTurns<E> && !problem.frames_contiguous && problem.classes > 1 &&
         4 * problem.classes <= (kScores ? 2 : 3) * kLanes<Arithmetic<E>>;
}

// The rows of a block's classes, of which there are at most kClasses.
template <class E, int64_t kClasses = kLanes<Arithmetic<E>>>
struct Block {
  alignas(64) E values[kClasses * kRowStride];

  E* row(int64_t class_index) { return values + class_index * kRowStride; }

  // A bag of the block's frames.
  FrameTensor rows() { return {values, 0, kRowStride, 1}; }
};

// Calls body(first, last) for the blocks of frames `from` to `to`.
template <class Body>
MILKERNELS_INLINE void for_blocks(int64_t from, int64_t to, const Body& body) {
  for (int64_t first = from; first < to; first += kBlockFrames)
    body(first, first + kBlockFrames < to ? first + kBlockFrames : to);
}

// Classes that are moved together: a vector holds such pieces of several frames, every fourth one.
constexpr int kPiece = 4;

// Through memory the processor would wait for the small stores before the wide load.
MILKERNELS_INLINE Vector<float> load_pieces(const float* from, int64_t stride) {
#if defined(__AVX512F__)
  __m512 pieces = _mm512_castps128_ps512(_mm_loadu_ps(from));
  pieces = _mm512_insertf32x4(pieces, _mm_loadu_ps(from + 4 * stride), 1);
  pieces = _mm512_insertf32x4(pieces, _mm_loadu_ps(from + 8 * stride), 2);
  return bit_cast<Vector<float>>(_mm512_insertf32x4(pieces, _mm_loadu_ps(from + 12 * stride), 3));
#elif defined(__AVX2__)
  const __m256 pieces = _mm256_castps128_ps256(_mm_loadu_ps(from));
  return bit_cast<Vector<float>>(_mm256_insertf128_ps(pieces, _mm_loadu_ps(from + 4 * stride), 1));
#else
  float values[kLanes<float>];
  for (int64_t lane = 0; lane < kLanes<float>; lane += kPiece)
    std::memcpy(values + lane, from + lane * stride, kPiece * sizeof(float));
  return load(values);
#endif
}

// The first kCount values of each piece.
template <int kCount>
MILKERNELS_INLINE void store_pieces(float* to, int64_t stride, Vector<float> pieces) {
  float values[kLanes<float>];
  store(values, pieces);
  MILKERNELS_UNROLL
  for (int64_t lane = 0; lane < kLanes<float>; lane += kPiece)
    std::memcpy(to + lane * stride, values + lane, kCount * sizeof(float));
}

// Up to kPiece rows as a vector of frames of as many classes.
template <int kCount>
MILKERNELS_INLINE void turn_back_pieces(const float* from, float* to, int64_t stride) {
  Vector<float> rows[kPiece];
  MILKERNELS_UNROLL
  for (int k = 0; k < kPiece; ++k) rows[k] = k < kCount ? load(from + k * kRowStride) : rows[0];
  transpose<float, kPiece>(rows);
  MILKERNELS_UNROLL
  for (int k = 0; k < kPiece; ++k) store_pieces<kCount>(to + k * stride, stride, rows[k]);
}

// Frames `first` to `last` of a bag, as rows.
template <int64_t kClasses>
void turn(const Problem& problem, const FrameTensor& from, int64_t bag, int64_t first, int64_t last,
          Block<float, kClasses>& to) {
  constexpr int64_t kStep = kLanes<float>;
  const int64_t stride = from.stride_frame;
  // The last piece of a frame reads into the next one: there must be one, and reach as far.
  const int64_t followed = last < problem.frames ? last : problem.frames - 1;
  const int64_t read = (problem.classes + kPiece - 1) / kPiece * kPiece;
  const int64_t end = stride + problem.classes >= read ? followed : first;
  int64_t frame = first;
  for (; frame + kStep <= end; frame += kStep) {
    for (int64_t index = 0; index < problem.classes; index += kPiece) {
      const float* x = at<float>(from, bag, index, frame);
      Vector<float> rows[kPiece];
      MILKERNELS_UNROLL
      for (int k = 0; k < kPiece; ++k) rows[k] = load_pieces(x + k * stride, stride);
      transpose<float, kPiece>(rows);
      MILKERNELS_UNROLL
      for (int k = 0; k < kPiece; ++k) store(to.row(index + k) + frame - first, rows[k]);
    }
  }
  for (; frame < last; ++frame)
    for (int64_t index = 0; index < problem.classes; ++index)
      to.row(index)[frame - first] = *at<float>(from, bag, index, frame);
}

// Rows as frames `first` to `last` of a bag.
template <int64_t kClasses>
void turn_back(const Problem& problem, Block<float, kClasses>& from, int64_t bag, int64_t first,
               int64_t last, const FrameTensor& to) {
  constexpr int64_t kStep = kLanes<float>;
  const int64_t stride = to.stride_frame;
  int64_t frame = first;
  for (; frame + kStep <= last; frame += kStep) {
    for (int64_t index = 0; index < problem.classes; index += kPiece) {
      const float* rows = from.row(index) + frame - first;
      float* x = at_mutable<float>(to, bag, index, frame);
      switch (problem.classes - index) {
        case 1:
          turn_back_pieces<1>(rows, x, stride);
          break;
        case 2:
          turn_back_pieces<2>(rows, x, stride);
          break;
        case 3:
          turn_back_pieces<3>(rows, x, stride);
          break;
        default:
          turn_back_pieces<4>(rows, x, stride);
      }
    }
  }
  for (; frame < last; ++frame)
    for (int64_t index = 0; index < problem.classes; ++index)
      *at_mutable<float>(to, bag, index, frame) = from.row(index)[frame - first];
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
