// What the binary cross-entropy of bag values is computed from.
#pragma once

#include <cstdint>

namespace milkernels {

// What the gradient is taken with respect to: y; -log(1 - y), where 1 - y is given and not
// negative; or y's logit.
enum class Slope { kValue, kSurvival, kLogit };

// Everything but `known` is in the arithmetic type. Rows of bags: those of y and its gradient lie
// side by side, those of the others `stride_bag` elements apart.
struct CrossEntropyProblem {
  int64_t bags = 0;
  int64_t classes = 0;
  int64_t stride_bag = 0;
  bool from_logits = false;
  Slope slope = Slope::kValue;
  // Bag values, or with Slope::kLogit their logits.
  const void* y = nullptr;
  // 1 - y where that is known better than y tells, else null; with Slope::kSurvival negative where
  // y is 1.
  const void* complement = nullptr;
  const void* target = nullptr;
  // Null for weights of 1, and where every label is known.
  const void* weight = nullptr;
  const uint8_t* known = nullptr;
  void* loss = nullptr;
  // Of the loss times `scale`; null if it is not wanted.
  void* gradient = nullptr;
  double scale = 1;
};

}  // namespace milkernels
