#include "runtime/mutants.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace dlbridge::cuda {

Mutant living_mutant() {
  static const Mutant chosen = [] {
    const char* text = std::getenv("DLBRIDGE_CUDA_MUTANT");
    const std::string wanted = text != nullptr ? text : "";
    if (wanted.empty()) return Mutant::none;
#define DLBRIDGE_X(name) \
  if (wanted == #name) return Mutant::name;
    DLBRIDGE_CUDA_MUTANT_LIST(DLBRIDGE_X)
#undef DLBRIDGE_X
    throw std::invalid_argument("DLBRIDGE_CUDA_MUTANT is " + wanted + ", which is no mutant");
  }();
  return chosen;
}

}  // namespace dlbridge::cuda
