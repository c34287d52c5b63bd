// SPDX-License-Identifier: Apache-2.0
// dlbridge_cuda_bars: measures what is promised of staging (docs/measurements/README.md) on a real
// GPU.
//
//   python3 benchmarks/cuda/bars.py build/gpu/.../dlbridge_cuda_bars [--json PATH] [--only REGEX]
//       [--seed N] [--rounds N] [--samples N] [--seconds N] [--device N] [--list]
//
// Writes the times of each bar, which bars.py judges. Ends with 0, or 1 where no case could be
// measured, 2 for wrong arguments, 3 where there is no GPU to measure: then it gives no figures.
#include <cstdio>
#include <exception>
#include <regex>
#include <stdexcept>
#include <utility>

#include "dlbridge/cuda/staging.h"
#include "raw_cuda.h"
#include "session.h"

namespace dlbridge::bars {
namespace {

// What matters most comes first: the time may run out.
std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const auto make :
       {pooled_cases, small_cases, pageable_cases, strided_cases, batch_cases, async_cases}) {
    for (Case& one : make()) cases.push_back(std::move(one));
  }
  return cases;
}

std::vector<Case> chosen_cases(const std::string& only) {
  std::vector<Case> cases = all_cases();
  if (only.empty()) return cases;
  const std::regex pattern(only);
  std::erase_if(cases, [&](const Case& one) { return !std::regex_search(one.name, pattern); });
  if (cases.empty()) throw std::invalid_argument("no case is called like '" + only + "'");
  return cases;
}

int list(const std::vector<Case>& cases) {
  for (const Case& one : cases) {
    for (const Bar& bar : one.bars)
      std::printf("%s: %s (%s)\n", one.name.c_str(), bar.name.c_str(), bar.figure.c_str());
  }
  return 0;
}

void run(const Case& one, Session& session, Report& report) {
  const size_t before = report.bars();
  try {
    one.run(session, one.bars);
  } catch (const std::exception& error) {
    for (size_t i = report.bars() - before; i < one.bars.size(); ++i)
      report.add(not_measured(one.bars[i], "BROKEN", error.what()));
  }
}

int measure(const Options& options, const std::vector<Case>& cases) {
  cudaDeviceProp properties{};
  must(cudaGetDeviceProperties(&properties, options.device), "cudaGetDeviceProperties");
  Report report({{"device", properties.name},
                 {"seed", std::to_string(options.seed)},
                 {"rounds", std::to_string(options.rounds)},
                 {"samples", std::to_string(options.samples)}});
  const Stopwatch watch;
  Session session(options, report);
  for (const Case& one : cases) {
    if (watch.seconds() < options.seconds) {
      run(one, session, report);
    } else {
      for (const Bar& bar : one.bars) session.skip(bar, "the time was up");
    }
  }
  return 0;
}

int main_of(int argc, const char* const* argv) {
  Options options;
  std::vector<Case> cases;
  try {
    options = parse_options(argc, argv);
    cases = chosen_cases(options.only);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dlbridge_cuda_bars: %s\n", error.what());
    return 2;
  }
  if (options.list) return list(cases);
  const cuda::Availability found = cuda::availability();
  if (!found.usable) {
    std::fprintf(stderr, "%s: nothing measured (%s)\n",
                 found.reason == ErrorCode::no_driver ? "no CUDA driver" : "no GPU to use",
                 found.message.c_str());
    return 3;
  }
  try {
    return measure(options, cases);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dlbridge_cuda_bars: %s\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace dlbridge::bars

int main(int argc, char** argv) { return dlbridge::bars::main_of(argc, argv); }
