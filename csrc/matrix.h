// Products of matrices that lie in the cache: tiles of rows times panels of columns, with all of a
// tile's sums in registers. A sum's terms are added in order, whatever the tile or thread.
#pragma once

#include <memory>
#include <new>

#include "elements.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Sums of a tile and the vectors beside them fill the registers: 32 of them, or 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileVectors = 4;
#else
constexpr int kTileVectors = 2;
#endif
constexpr int kTileRows = 6;

// Columns of a panel.
template <class T>
constexpr int64_t kPanel = kTileVectors * kLanes<T>;

template <class T>
constexpr int64_t whole_panels(int64_t columns) {
  return (columns + kPanel<T> - 1) / kPanel<T> * kPanel<T>;
}

// Memory for vectors, as the values come: not set to anything.
template <class T>
class Workspace {
 public:
  explicit Workspace(int64_t count)
      : values_(static_cast<T*>(
            ::operator new(static_cast<size_t>(count) * sizeof(T), std::align_val_t{kBytes}))) {}
  T* data() const { return values_.get(); }

 private:
  struct Free {
    void operator()(T* values) const { ::operator delete(values, std::align_val_t{kBytes}); }
  };
  std::unique_ptr<T, Free> values_;
};

// Rows of `step` values each. With step 0 all rows are the first.
template <class T>
struct Matrix {
  T* data;
  int64_t step;

  Matrix from_row(int64_t row) const { return {data + row * step, step}; }
  Matrix from_column(int64_t column) const { return {data + column, step}; }
};

// One tile. What it starts from is added last: sums that start at 0 round less.
template <class T, bool kTransposed, int kRows>
inline void multiply_tile(Matrix<const T> left, Matrix<const T> right, int64_t depth,
                          Matrix<const T> initial, Matrix<T> result) {
  Vector<T> sums[kRows][kTileVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
    for (int part = 0; part < kTileVectors; ++part) sums[row][part] = Vector<T>{};
  for (int64_t term = 0; term < depth; ++term) {
    Vector<T> factors[kTileVectors];
#pragma GCC unroll 8
    for (int part = 0; part < kTileVectors; ++part)
      factors[part] = load(right.data + term * right.step + part * kLanes<T>);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const T* value = left.data + (kTransposed ? term * left.step + row : row * left.step + term);
      const Vector<T> factor = broadcast(*value);
#pragma GCC unroll 8
      for (int part = 0; part < kTileVectors; ++part)
        sums[row][part] = multiply_add(factor, factors[part], sums[row][part]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 8
    for (int part = 0; part < kTileVectors; ++part)
      store(result.data + row * result.step + part * kLanes<T>,
            load(initial.data + row * initial.step + part * kLanes<T>) + sums[row][part]);
}

// One panel: result (rows, kPanel) = initial + left · right, with left (rows, depth), or stored
// (depth, rows) if kTransposed, and right (depth, kPanel).
template <class T, bool kTransposed>
inline void multiply_panel(int64_t rows, int64_t depth, Matrix<const T> left, Matrix<const T> right,
                           Matrix<const T> initial, Matrix<T> result) {
  for (int64_t row = 0; row < rows; row += kTileRows) {
    const Matrix<const T> of_tile = kTransposed ? left.from_column(row) : left.from_row(row);
    const Matrix<const T> start = initial.from_row(row);
    const Matrix<T> to = result.from_row(row);
    switch (rows - row) {
#define MILKERNELS_REST(ROWS) \
  case ROWS:                  \
    return multiply_tile<T, kTransposed, ROWS>(of_tile, right, depth, start, to);
      MILKERNELS_REST(1)
      MILKERNELS_REST(2)
      MILKERNELS_REST(3)
      MILKERNELS_REST(4)
      MILKERNELS_REST(5)
#undef MILKERNELS_REST
      default:
        multiply_tile<T, kTransposed, kTileRows>(of_tile, right, depth, start, to);
    }
  }
}

// A weight matrix (outputs, inputs) as panels: each holds kPanel outputs of every input, so that
// rows of inputs times it are rows of outputs. Missing outputs are 0.
template <class T>
void pack_outputs(const T* weight, int64_t width, T* panels) {
  for (int64_t start = 0; start < width; start += kPanel<T>)
    for (int64_t input = 0; input < width; ++input)
      for (int64_t output = start; output < start + kPanel<T>; ++output)
        *panels++ = output < width ? weight[output * width + input] : T(0);
}

// The same for rows of outputs' gradients, which times it are rows of inputs' gradients.
template <class T>
void pack_inputs(const T* weight, int64_t width, T* panels) {
  for (int64_t start = 0; start < width; start += kPanel<T>)
    for (int64_t output = 0; output < width; ++output)
      for (int64_t input = start; input < start + kPanel<T>; ++input)
        *panels++ = input < width ? weight[output * width + input] : T(0);
}

// result (rows, whole panels) = initial + left (rows, depth) · the matrix that `panels` hold.
template <class T>
void multiply_packed(int64_t rows, int64_t depth, int64_t columns, Matrix<const T> left,
                     const T* panels, Matrix<const T> initial, Matrix<T> result) {
  for (int64_t start = 0; start < columns; start += kPanel<T>)
    multiply_panel<T, false>(rows, depth, left, {panels + start * depth, kPanel<T>},
                             initial.from_column(start), result.from_column(start));
}

// result (rows, whole panels) += leftᵀ · right, with left (depth, rows) and right (depth, columns).
template <class T>
void add_product_of_columns(int64_t rows, int64_t depth, int64_t columns, Matrix<const T> left,
                            Matrix<const T> right, Matrix<T> result) {
  for (int64_t start = 0; start < columns; start += kPanel<T>) {
    const Matrix<T> to = result.from_column(start);
    multiply_panel<T, true>(rows, depth, left, right.from_column(start), {to.data, to.step}, to);
  }
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
