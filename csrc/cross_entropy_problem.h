// What the binary cross-entropy of bag values is computed from.
#pragma once

#include <cstdint>

namespace milkernels {

// Everything but `known` is in the arithmetic type. Rows of bags: those of y and its gradient lie
// side by side, those of the others `stride_bag` elements apart.
struct CrossEntropyProblem {
  int64_t bags = 0;
  int64_t classes = 0;
  int64_t stride_bag = 0;
  bool from_logits = false;
  // Bag values, or with `y_is_logit` their logits.
  const void* y = nullptr;
  bool y_is_logit = false;
  // 1 - y where that is known better than y tells, else null.
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
