#include "session.h"

#include <span>
#include <utility>

#include "raw_cuda.h"

namespace dlbridge::bars {
namespace {

constexpr int kWarmUps = 3;
constexpr int kLatencyWarmUps = 500;
constexpr size_t kBlock = 500;

// Times of copies that follow one another depend on each other; medians of blocks hardly do.
std::vector<double> medians_of_blocks(const std::vector<double>& samples) {
  std::vector<double> out;
  const std::span all(samples);
  for (size_t begin = 0; begin + kBlock <= all.size(); begin += kBlock)
    out.push_back(median(all.subspan(begin, kBlock)));
  return out;
}

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

void Session::speed(const Bar& bar, const Series& ours, const Series& baseline, std::string note) {
  Outcome outcome =
      outcome_of(bar, ratios(baseline.seconds, ours.seconds), {ours, baseline}, options_.seed);
  outcome.note = std::move(note);
  report_.add(std::move(outcome));
}

void Session::cost(const Bar& bar, const Series& ours, const Series& baseline) {
  report_.add(
      outcome_of(bar, ratios(medians_of_blocks(ours.seconds), medians_of_blocks(baseline.seconds)),
                 {ours, baseline}, options_.seed));
}

void Session::figure(const Bar& bar, std::vector<double> values, std::string note) {
  Outcome outcome = outcome_of(bar, std::move(values), {}, options_.seed);
  outcome.note = std::move(note);
  report_.add(std::move(outcome));
}

std::string size_name(int64_t bytes) {
  if (bytes >= kGiB && bytes % kGiB == 0) return std::to_string(bytes / kGiB) + " GiB";
  if (bytes >= kMiB && bytes % kMiB == 0) return std::to_string(bytes / kMiB) + " MiB";
  if (bytes >= kKiB && bytes % kKiB == 0) return std::to_string(bytes / kKiB) + " KiB";
  return std::to_string(bytes) + " B";
}

}  // namespace dlbridge::bars
