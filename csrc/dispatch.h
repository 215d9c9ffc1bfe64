// The instruction set that this machine runs, and its kernels.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace milkernels {

enum class Element : int { kFloat64, kFloat32, kBFloat16, kFloat16 };

// Instruction sets that this build holds and this machine runs, the fastest first.
std::vector<std::string> usable_instruction_sets();

// The fastest usable one, or the one that the environment variable MILKERNELS_INSTRUCTION_SET
// names. Throws std::invalid_argument if that one is not usable.
std::string chosen_instruction_set();

// Those of the chosen instruction set, looked up once.
const Kernels& kernels_for(Element element);

}  // namespace milkernels
