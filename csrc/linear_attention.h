// Attention over a row of L values by two linear layers: y = Σ_l p_l v_l. Rows go through in blocks
// whose scores stay in the cache; the backward pass computes them again.
#pragma once

#include <limits>
#include <vector>

#include "formula.h"
#include "matrix.h"
#include "parallel.h"

namespace milkernels {
namespace MILKERNELS_INSTRUCTION_SET {

// Values of a block of rows, and the fewest and the most rows that it has.
constexpr int64_t kBlockValues = 8192;
constexpr int64_t kFewestRows = 24;
constexpr int64_t kMostRows = 192;
constexpr int64_t kFewRows = 16;

// Parts in which the weights' gradients are summed: from the shape alone, so that results repeat.
constexpr int64_t kMostParts = 64;

constexpr int64_t parts_of(const LinearAttentionProblem& problem) {
  const int64_t parts = problem.rows / problem.width;
  return parts < 1 ? 1 : parts > kMostParts ? kMostParts : parts;
}

inline int64_t rows_of_block(int64_t columns) {
  const int64_t rows = kBlockValues / columns;
  const int64_t few = rows < kFewestRows ? kFewestRows : rows;
  return (few > kMostRows ? kMostRows : few) / kTileRows * kTileRows;
}

// One position of a row: the log of its weight, its value, and the derivative that its sigmoid
// brings: of the attention branch in the paper's form, of the class branch in its code's.
template <class T>
struct Position {
  Vector<T> score;
  Vector<T> value;
  Vector<T> slope;
};

template <bool kCode, class T>
inline Position<T> position(Vector<T> attention, Vector<T> value) {
  const Sigmoid<T> at = sigmoid<T>(kCode ? value : attention);
  const Vector<T> slope = at.value * at.complement;
  if constexpr (kCode) return {attention, at.value, slope};
  return {at.value, value, slope};
}

// The weight relative to 2^peak, rounded once before the exponential.
template <class T>
inline Vector<T> weight(Vector<T> score, T peak) {
  if (MILKERNELS_UNLIKELY(std::abs(peak) > kLargestPeak<T>))
    return exp2_below_large<T>(score * T(kLog2E), broadcast(peak));
  return exp2(multiply_add(score, broadcast(T(kLog2E)), broadcast(-peak)));
}

// Both layers' weights in panels, and their biases one after the other.
template <class T>
struct Layers {
  explicit Layers(const LinearAttentionProblem& problem)
      : width(problem.width),
        columns(whole_panels<T>(width)),
        outputs(2 * columns * width),
        biases(2 * columns) {
    const void* weights[] = {problem.attention_weight, problem.class_weight};
    const void* bias[] = {problem.attention_bias, problem.class_bias};
    for (int layer = 0; layer < 2; ++layer) {
      pack_outputs(static_cast<const T*>(weights[layer]), width,
                   outputs.data() + layer * columns * width);
      for (int64_t column = 0; column < columns; ++column)
        biases.data()[layer * columns + column] =
            column < width ? static_cast<const T*>(bias[layer])[column] : T(0);
    }
  }

  int64_t width;
  int64_t columns;
  Workspace<T> outputs;
  Workspace<T> biases;
};

// A block of rows: their values, widened and padded with 0, and the two layers' outputs.
template <class T>
struct Block {
  explicit Block(int64_t columns)
      : rows(rows_of_block(columns)),
        columns(columns),
        inputs(rows * columns),
        outputs(rows * 2 * columns) {}

  template <class E>
  void read(const LinearAttentionProblem& problem, int64_t first, int64_t count) {
    for (int64_t row = 0; row < count; ++row) {
      const E* from = static_cast<const E*>(problem.z) + (first + row) * problem.stride_row;
      T* to = inputs.data() + row * columns;
      for (int64_t start = 0; start < columns; start += kLanes<T>) {
        const int64_t left = problem.width - start;
        store(to + start, left >= kLanes<T> ? load(from + start)
                          : left > 0        ? load_first(from + start, left)
                                            : Vector<T>{});
      }
    }
  }

  void apply(const Layers<T>& layers, int64_t count) {
    multiply_packed<T>(count, layers.width, 2 * columns, {inputs.data(), columns},
                       layers.outputs.data(), {layers.biases.data(), 0},
                       {outputs.data(), 2 * columns});
  }

  int64_t rows;
  int64_t columns;
  Workspace<T> inputs;
  Workspace<T> outputs;
};

// The lanes of `vector` that are among the `left` to come, and `other` in those beyond.
template <class T>
inline Vector<T> inside(int64_t left, Vector<T> vector, Vector<T> other) {
  return left >= kLanes<T> ? vector : first_lanes<T>(left) ? vector : other;
}

// The peak, total and average of one row, whose outputs become scores and values: two short
// loops, whose chains of operations overlap better than those of a long one. The average is held
// between the smallest and the largest value, which rounding can carry it over.
template <class E, bool kCode>
void pool_row(const LinearAttentionProblem& problem, int64_t row, Arithmetic<E>* attention,
              Arithmetic<E>* values) {
  using T = Arithmetic<E>;
  const int64_t width = problem.width;
  Vector<T> peaks = broadcast(-std::numeric_limits<T>::infinity());
  Vector<T> high = peaks, low = -peaks;
  for (int64_t start = 0; start < width; start += kLanes<T>) {
    const Position<T> at = position<kCode, T>(load(attention + start), load(values + start));
    store(attention + start, at.score);
    if (kCode) store(values + start, at.value);
    if (kCode) peaks = maximum(peaks, inside<T>(width - start, at.score, peaks));
    high = maximum(high, inside<T>(width - start, at.value, high));
    low = minimum(low, inside<T>(width - start, at.value, low));
  }
  const T peak =
      kCode ? ceiling(finite_peak<T>(broadcast(largest_lane<T>(peaks) * T(kLog2E))))[0] : T(0);
  Vector<T> total{}, sum{};
  for (int64_t start = 0; start < width; start += kLanes<T>) {
    const Vector<T> here =
        inside<T>(width - start, weight<T>(load(attention + start), peak), Vector<T>{});
    total += here;
    sum = multiply_add(here, load(values + start), sum);
  }
  const T whole = sum_of_lanes<T>(total);
  T average = sum_of_lanes<T>(sum) / whole;
  const T largest = largest_lane<T>(high), smallest = -largest_lane<T>(-low);
  average = average > largest ? largest : average < smallest ? smallest : average;
  store_one(static_cast<E*>(problem.y) + row, average);
  T* statistics = static_cast<T*>(problem.statistics) + row;
  statistics[kPeak * problem.rows] = peak;
  statistics[kTotal * problem.rows] = whole;
  statistics[kAverage * problem.rows] = average;
}

template <class E, bool kCode>
void pool_rows(const LinearAttentionProblem& problem) {
  using T = Arithmetic<E>;
  const Layers<T> layers(problem);
  const int64_t parts = parts_of(problem);
  parallel_for(parts, problem.work(), problem.threads, [&](int64_t part) {
    Block<T> block(layers.columns);
    const int64_t end = problem.rows * (part + 1) / parts;
    for (int64_t first = problem.rows * part / parts; first < end; first += block.rows) {
      const int64_t count = end - first < block.rows ? end - first : block.rows;
      block.template read<E>(problem, first, count);
      block.apply(layers, count);
      for (int64_t row = 0; row < count; ++row) {
        T* outputs = block.outputs.data() + row * 2 * block.columns;
        pool_row<E, kCode>(problem, first + row, outputs, outputs + block.columns);
      }
    }
  });
}

// Turns one row of both layers' outputs into their gradients.
template <class E, bool kCode>
void differentiate_row(const LinearAttentionProblem& problem, int64_t row, Arithmetic<E>* attention,
                       Arithmetic<E>* values) {
  using T = Arithmetic<E>;
  const T* statistics = static_cast<const T*>(problem.statistics) + row;
  const T peak = statistics[kPeak * problem.rows];
  const T average = statistics[kAverage * problem.rows];
  const T gradient = load_one(static_cast<const E*>(problem.gradient) + row);
  const T scale = gradient / statistics[kTotal * problem.rows];
  for (int64_t start = 0; start < problem.width; start += kLanes<T>) {
    const Position<T> at = position<kCode, T>(load(attention + start), load(values + start));
    const Vector<T> share = weight<T>(at.score, peak) * scale;
    const Vector<T> residual = share * (at.value - average);
    store(attention + start, kCode ? residual : residual * at.slope);
    store(values + start, kCode ? share * at.slope : share);
  }
}

// Sums of the weights' and biases' gradients over one part of the rows.
template <class T>
struct Sums {
  Sums(int64_t width, int64_t columns)
      : columns(columns), weights(2 * width * columns), biases(2 * columns) {
    for (int64_t index = 0; index < 2 * width * columns; ++index) weights.data()[index] = 0;
    for (int64_t index = 0; index < 2 * columns; ++index) biases.data()[index] = 0;
  }

  void add(const Block<T>& block, int64_t width, int64_t count) {
    for (int layer = 0; layer < 2; ++layer)
      add_product_of_columns<T>(
          width, count, columns, {block.outputs.data() + layer * columns, 2 * columns},
          {block.inputs.data(), columns}, {weights.data() + layer * width * columns, columns});
    for (int64_t start = 0; start < 2 * columns; start += kLanes<T>) {
      Vector<T> sum = load(biases.data() + start);
      // Sums of few rows first: their rounding is less.
      for (int64_t few = 0; few < count; few += kFewRows) {
        Vector<T> part{};
        for (int64_t row = few; row < few + kFewRows && row < count; ++row)
          part += load(block.outputs.data() + row * 2 * columns + start);
        sum += part;
      }
      store(biases.data() + start, sum);
    }
  }

  int64_t columns;
  Workspace<T> weights;
  Workspace<T> biases;
};

template <class E>
void write_input_gradient(const LinearAttentionProblem& problem, const Arithmetic<E>* from,
                          int64_t columns, int64_t first, int64_t count) {
  using T = Arithmetic<E>;
  for (int64_t row = 0; row < count; ++row) {
    E* to = static_cast<E*>(problem.z_gradient) + (first + row) * problem.width;
    for (int64_t start = 0; start < problem.width; start += kLanes<T>) {
      const Vector<T> values = load(from + row * columns + start);
      const int64_t left = problem.width - start;
      left >= kLanes<T> ? store(to + start, values) : store_first(to + start, values, left);
    }
  }
}

// The parts' sums, added in order.
template <class T>
void write_weight_gradients(const LinearAttentionProblem& problem,
                            const std::vector<std::unique_ptr<Sums<T>>>& sums) {
  T* const weights[] = {static_cast<T*>(problem.attention_weight_gradient),
                        static_cast<T*>(problem.class_weight_gradient)};
  T* const biases[] = {static_cast<T*>(problem.attention_bias_gradient),
                       static_cast<T*>(problem.class_bias_gradient)};
  const int64_t width = problem.width;
  const int64_t columns = sums[0]->columns;
  parallel_for(2 * width, problem.work() / kMostRows, problem.threads, [&](int64_t task) {
    const int64_t layer = task / width, output = task % width;
    for (int64_t input = 0; input < width; ++input) {
      double sum = 0;
      for (const auto& part : sums) sum += part->weights.data()[task * columns + input];
      weights[layer][output * width + input] = static_cast<T>(sum);
    }
    double sum = 0;
    for (const auto& part : sums) sum += part->biases.data()[layer * columns + output];
    biases[layer][output] = static_cast<T>(sum);
  });
}

template <class E, bool kCode>
void differentiate_rows(const LinearAttentionProblem& problem) {
  using T = Arithmetic<E>;
  const Layers<T> layers(problem);
  const int64_t width = layers.width, columns = layers.columns, parts = parts_of(problem);
  const bool learns = problem.attention_weight_gradient != nullptr;
  const Workspace<T> inputs(2 * columns * width);
  pack_inputs(static_cast<const T*>(problem.attention_weight), width, inputs.data());
  pack_inputs(static_cast<const T*>(problem.class_weight), width, inputs.data() + columns * width);
  const std::vector<T> zeros(static_cast<size_t>(columns));
  std::vector<std::unique_ptr<Sums<T>>> sums(static_cast<size_t>(parts));
  parallel_for(parts, problem.work(), problem.threads, [&](int64_t part) {
    Block<T> block(columns);
    auto& sum = sums[static_cast<size_t>(part)];
    if (learns) sum = std::make_unique<Sums<T>>(width, columns);
    const int64_t end = problem.rows * (part + 1) / parts;
    for (int64_t first = problem.rows * part / parts; first < end; first += block.rows) {
      const int64_t count = end - first < block.rows ? end - first : block.rows;
      block.template read<E>(problem, first, count);
      block.apply(layers, count);
      for (int64_t row = 0; row < count; ++row) {
        T* outputs = block.outputs.data() + row * 2 * columns;
        differentiate_row<E, kCode>(problem, first + row, outputs, outputs + columns);
      }
      if (learns) sum->add(block, width, count);
      if (problem.z_gradient == nullptr) continue;
      // The inputs have been used: their gradients take their place.
      const Matrix<T> to{block.inputs.data(), columns};
      multiply_packed<T>(count, width, columns, {block.outputs.data(), 2 * columns}, inputs.data(),
                         {zeros.data(), 0}, to);
      multiply_packed<T>(count, width, columns, {block.outputs.data() + columns, 2 * columns},
                         inputs.data() + columns * width, {to.data, to.step}, to);
      write_input_gradient<E>(problem, to.data, columns, first, count);
    }
  });
  if (learns) write_weight_gradients(problem, sums);
}

template <class E>
void linear_attention_forward(const LinearAttentionProblem& problem) {
  problem.as_in_code ? pool_rows<E, true>(problem) : pool_rows<E, false>(problem);
}

template <class E>
void linear_attention_backward(const LinearAttentionProblem& problem) {
  problem.as_in_code ? differentiate_rows<E, true>(problem) : differentiate_rows<E, false>(problem);
}

}  // namespace MILKERNELS_INSTRUCTION_SET
}  // namespace milkernels
