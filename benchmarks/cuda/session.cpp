// SPDX-License-Identifier: Apache-2.0
#include "session.h"

#include "raw_cuda.h"

namespace dlbridge::bars {
namespace {

constexpr int kWarmUps = 3;
constexpr int kLatencyWarmUps = 500;

}  // namespace

Session::Session(const Options& options, Report& report)
    : options_(options), report_(report), random_(options.seed) {
  must(cudaSetDevice(options.device), "cudaSetDevice");
  must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

Session::~Session() { cudaStreamDestroy(stream_); }

std::vector<Series> Session::contest(const std::vector<Contender>& contenders) {
  return interleave(contenders, {kWarmUps, options_.rounds}, random_);
}

std::vector<Series> Session::latency(const std::vector<Contender>& contenders) {
  return interleave(contenders, {kLatencyWarmUps, options_.samples}, random_);
}

void Session::speed(const Bar& bar, const Series& ours, const Series& baseline,
                    const std::string& note) {
  report_.add(line_of(bar, "speed", ours, baseline, note));
}

void Session::cost(const Bar& bar, const Series& ours, const Series& baseline) {
  report_.add(line_of(bar, "cost", ours, baseline, ""));
}

void Session::figure(const Bar& bar, const std::vector<double>& values, const std::string& note) {
  report_.add(line_of(bar, values, note));
}

std::string size_name(int64_t bytes) {
  if (bytes >= kGiB && bytes % kGiB == 0) return std::to_string(bytes / kGiB) + " GiB";
  if (bytes >= kMiB && bytes % kMiB == 0) return std::to_string(bytes / kMiB) + " MiB";
  if (bytes >= kKiB && bytes % kKiB == 0) return std::to_string(bytes / kKiB) + " KiB";
  return std::to_string(bytes) + " B";
}

}  // namespace dlbridge::bars
