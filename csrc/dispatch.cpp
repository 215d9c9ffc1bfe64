#include "dispatch.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iterator>
#include <stdexcept>

// What setup.py compiles: KERNELS(instruction set, element) for each pair.
#ifndef MILKERNELS_VARIANTS
#error "MILKERNELS_VARIANTS is not defined"
#endif

namespace milkernels {

#define MILKERNELS_DECLARE(INSTRUCTION_SET, ELEMENT) \
  namespace INSTRUCTION_SET {                        \
  extern const Kernels kernels_##ELEMENT;            \
  }
MILKERNELS_VARIANTS(MILKERNELS_DECLARE)
#undef MILKERNELS_DECLARE

namespace {

struct Variant {
  const char* instruction_set;
  const char* element;
  const Kernels& kernels;
};

#define MILKERNELS_ROW(INSTRUCTION_SET, ELEMENT) \
  {#INSTRUCTION_SET, #ELEMENT, INSTRUCTION_SET::kernels_##ELEMENT},
constexpr Variant kVariants[] = {MILKERNELS_VARIANTS(MILKERNELS_ROW)};
#undef MILKERNELS_ROW

bool is_built(const std::string& instruction_set) {
  return std::any_of(std::begin(kVariants), std::end(kVariants), [&](const Variant& variant) {
    return variant.instruction_set == instruction_set;
  });
}

std::string name_of(Element element) {
  constexpr const char* kNames[] = {"double", "float", "BFloat16", "Float16"};
  return kNames[static_cast<int>(element)];
}

// Null where there are none. Where an instruction set has none for an element, the next slower
// one's serve.
const Kernels* find_kernels(Element element) {
  const std::vector<std::string> usable = usable_instruction_sets();
  auto name = std::find(usable.begin(), usable.end(), chosen_instruction_set());
  for (; name != usable.end(); ++name)
    for (const Variant& variant : kVariants)
      if (variant.instruction_set == *name && variant.element == name_of(element))
        return &variant.kernels;
  return nullptr;
}

}  // namespace

std::vector<std::string> usable_instruction_sets() {
  std::vector<std::string> runs;
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) runs.push_back("avx512");
  if (avx2) runs.push_back("avx2");
#endif
  runs.push_back("portable");
  std::vector<std::string> usable;
  std::copy_if(runs.begin(), runs.end(), std::back_inserter(usable), is_built);
  return usable;
}

std::string chosen_instruction_set() {
  const std::vector<std::string> usable = usable_instruction_sets();
  const char* asked = std::getenv("MILKERNELS_INSTRUCTION_SET");
  if (asked == nullptr || *asked == '\0') return usable.at(0);
  if (std::find(usable.begin(), usable.end(), asked) != usable.end()) return asked;
  std::string expected;
  for (const std::string& name : usable) expected += (expected.empty() ? "" : ", ") + name;
  throw std::invalid_argument("MILKERNELS_INSTRUCTION_SET: expected one of " + expected +
                              " on this machine, got " + asked);
}

const Kernels& kernels_for(Element element) {
  static const std::array<const Kernels*, 4> chosen = {
      find_kernels(Element::kFloat64), find_kernels(Element::kFloat32),
      find_kernels(Element::kBFloat16), find_kernels(Element::kFloat16)};
  const Kernels* kernels = chosen.at(static_cast<size_t>(element));
  if (kernels != nullptr) return *kernels;
  throw std::invalid_argument("this build has no kernels of " + chosen_instruction_set() + " for " +
                              name_of(element));
}

}  // namespace milkernels
