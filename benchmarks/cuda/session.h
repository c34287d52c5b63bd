// SPDX-License-Identifier: Apache-2.0
// Session: what all cases of one run share, and Case: bars that are measured together.
//
// Thread: one.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "bar.h"
#include "contest.h"
#include "options.h"
#include "report.h"

namespace dlbridge::bars {

class Session {
 public:
  /// Makes `options.device` current and a stream on it.
  Session(const Options& options, Report& report);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Options& options() const noexcept { return options_; }
  /// The producer's or consumer's stream: a non-blocking one, as a framework would have.
  cudaStream_t stream() const noexcept { return stream_; }
  std::mt19937_64& random() noexcept { return random_; }

  /// Times of long copies, in turns.
  std::vector<Series> contest(const std::vector<Contender>& contenders);
  /// Samples of short calls, in turns.
  std::vector<Series> latency(const std::vector<Contender>& contenders);

  /// How much faster ours is: baseline / ours, round by round.
  void speed(const Bar& bar, const Series& ours, const Series& baseline,
             const std::string& note = "");
  /// How much ours costs: ours / baseline, of the medians of every 500 samples.
  void cost(const Bar& bar, const Series& ours, const Series& baseline);
  /// A figure of its own.
  void figure(const Bar& bar, const std::vector<double>& values, const std::string& note = "");
  void skip(const Bar& bar, const std::string& why) {
    report_.add(not_measured(bar, "skipped", why));
  }

 private:
  Options options_;
  Report& report_;
  std::mt19937_64 random_;
  cudaStream_t stream_ = nullptr;
};

struct Case {
  std::string name;  ///< "d2h-pooled/64MiB"
  std::vector<Bar> bars;
  /// Reports an outcome for each of `bars`.
  std::function<void(Session&, const std::vector<Bar>&)> run;
};

std::vector<Case> pooled_cases();
std::vector<Case> pageable_cases();
std::vector<Case> small_cases();
std::vector<Case> strided_cases();
std::vector<Case> batch_cases();
std::vector<Case> async_cases();

inline constexpr int64_t kKiB = 1024;
inline constexpr int64_t kMiB = kKiB * 1024;
inline constexpr int64_t kGiB = kMiB * 1024;

/// "64 MiB", "4 B".
std::string size_name(int64_t bytes);

}  // namespace dlbridge::bars
