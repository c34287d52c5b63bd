// SPDX-License-Identifier: Apache-2.0
// dlbridge_cuda_probe: asks a machine's CUDA what the CUDA module relies on, and times single
// calls. It uses nothing of dlbridge.
//
//   dlbridge_cuda_probe --list        names of the cases
//   dlbridge_cuda_probe [CASE...]     these cases
//
// Prints a line of JSON for each answer and one at the end of each case, flushed, so that a hang
// loses nothing: scripts/gpu ends a case that hangs and calls the program again for the others.
// Ends with 0, or 2 for an unknown case, 3 without a GPU.
#include "probe.h"

#include <cstdlib>

namespace dlbridge::probe {
namespace {

void run(const Case& one) {
  running = one.name;
  std::string error;
  try {
    one.body();
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  cudaGetLastError();
  std::printf("{\"case\": \"%s\", \"ended\": \"%s\"}\n", one.name, error.c_str());
  std::fflush(stdout);
}

int main_of(const std::vector<std::string>& wanted) {
  std::vector<Case> cases = questions();
  for (const Case& one : timings()) cases.push_back(one);
  if (wanted == std::vector<std::string>{"--list"}) {
    for (const Case& one : cases) std::puts(one.name);
    return 0;
  }
  const auto is_named = [](const std::string& name) {
    return [&name](const Case& one) { return name == one.name; };
  };
  for (const std::string& name : wanted) {
    if (std::ranges::none_of(cases, is_named(name))) {
      std::fprintf(stderr, "no case is called '%s': --list names them\n", name.c_str());
      return 2;
    }
  }
  int devices = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess) {
    std::fprintf(stderr, "no GPU: %s\n", name_of(error).c_str());
    return 3;
  }
  for (const Case& one : cases) {
    if (wanted.empty() || std::ranges::find(wanted, one.name) != wanted.end()) run(one);
  }
  return 0;
}

}  // namespace
}  // namespace dlbridge::probe

int main(int argc, char** argv) {
  const int status = dlbridge::probe::main_of({argv + 1, argv + argc});
  std::fflush(nullptr);
  std::_Exit(status);  // some answers leave the driver in no state to end in
}
