#include "dispatch.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace milkernels {

// Of AVX-512 there are no kernels for double precision, which is for checking: AVX2's serve.
#define MILKERNELS_DECLARE(INSTRUCTION_SET) \
  namespace INSTRUCTION_SET {               \
  extern const Kernels kernels_double;      \
  extern const Kernels kernels_float;       \
  extern const Kernels kernels_BFloat16;    \
  extern const Kernels kernels_Float16;     \
  }

MILKERNELS_DECLARE(portable)
#ifdef MILKERNELS_X86
MILKERNELS_DECLARE(avx2)
MILKERNELS_DECLARE(avx512)
#endif
#undef MILKERNELS_DECLARE

std::vector<std::string> usable_instruction_sets() {
  std::vector<std::string> usable;
#ifdef MILKERNELS_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) usable.push_back("avx512");
  if (avx2) usable.push_back("avx2");
#endif
  usable.push_back("portable");
  return usable;
}

std::string chosen_instruction_set() {
  const std::vector<std::string> usable = usable_instruction_sets();
  const char* asked = std::getenv("MILKERNELS_INSTRUCTION_SET");
  if (asked == nullptr || *asked == '\0') return usable.front();
  if (std::find(usable.begin(), usable.end(), asked) != usable.end()) return asked;
  std::string expected;
  for (const std::string& name : usable) expected += (expected.empty() ? "" : ", ") + name;
  throw std::invalid_argument("MILKERNELS_INSTRUCTION_SET: expected one of " + expected +
                              " on this machine, got " + asked);
}

const Kernels& kernels_for(const std::string& instruction_set, Element element) {
#define MILKERNELS_CHOOSE(INSTRUCTION_SET, OF_DOUBLE)            \
  if (instruction_set == #INSTRUCTION_SET) switch (element) {    \
      case Element::kFloat64:                                    \
        return OF_DOUBLE::kernels_double;                        \
      case Element::kFloat32:                                    \
        return INSTRUCTION_SET::kernels_float;                   \
      case Element::kBFloat16:                                   \
        return INSTRUCTION_SET::kernels_BFloat16;                \
      case Element::kFloat16:                                    \
        return INSTRUCTION_SET::kernels_Float16;                 \
    }
  MILKERNELS_CHOOSE(portable, portable)
#ifdef MILKERNELS_X86
  MILKERNELS_CHOOSE(avx2, avx2)
  MILKERNELS_CHOOSE(avx512, avx2)
#endif
#undef MILKERNELS_CHOOSE
  throw std::invalid_argument("unknown instruction set " + instruction_set);
}

}  // namespace milkernels
