// SPDX-License-Identifier: Apache-2.0
// One set of threads that large copies share.
#pragma once

#include <cstdint>

namespace dlbridge {

/// A loop whose iterations are independent. `body` is called once for each index below `count`,
/// which fits 32 bits.
struct ParallelLoop {
  void (*body)(const void* context, int64_t index) noexcept;
  const void* context;
  int64_t count;
};

/// Runs the loop on up to `threads` threads, the calling one included, and returns when it is done.
/// The calling thread runs it alone where the set is in use, no thread could be started, or the
/// process ends. Thread: any.
void run_parallel(const ParallelLoop& loop, int threads) noexcept;

/// num_threads(), with the affinity that the calling thread had some milliseconds ago at most.
int recent_num_threads() noexcept;

}  // namespace dlbridge
