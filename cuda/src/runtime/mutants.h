// Mutants: known mistakes, compiled in side by side in a mutation build and chosen by index at run
// time. Each must be found by the tests (docs/staging.md). In any other build mutant() is a
// constant false and leaves nothing behind.
#pragma once

#include "dlbridge/export.h"

namespace dlbridge::cuda {

#define DLBRIDGE_CUDA_MUTANT_LIST(X) \
  X(drop_ready_record)               \
  X(drop_lane_wait)                  \
  X(drop_done_record)                \
  X(drop_back_edge)                  \
  X(drop_consumer_to_lane_wait)      \
  X(drop_lane_to_consumer_wait)      \
  X(record_ready_after_waiting)      \
  X(record_done_before_last_chunk)   \
  X(release_source_at_submit)        \
  X(return_slot_before_ticket)       \
  X(skip_ring_reuse_wait)            \
  X(skip_pack_ring_reuse_edge)       \
  X(per_thread_handle_on_worker)     \
  X(blocking_lane)                   \
  X(no_context_restore)              \
  X(restore_by_set_device)           \
  X(no_capture_relax)                \
  X(no_capture_check)                \
  X(query_error_is_not_ready)        \
  X(not_ready_is_done)               \
  X(unwind_without_quiesce)          \
  X(recycle_after_sticky_error)      \
  X(skip_seam_split)                 \
  X(skip_quarantine)                 \
  X(kernel_params_by_reference)

enum class Mutant : int {
  none,
#define DLBRIDGE_X(name) name,
  DLBRIDGE_CUDA_MUTANT_LIST(DLBRIDGE_X)
#undef DLBRIDGE_X
};

#ifdef DLBRIDGE_CUDA_MUTANTS
/// The mutant that is alive: environment variable DLBRIDGE_CUDA_MUTANT (a name of the list), read
/// once. Throws std::invalid_argument for an unknown name.
DLBRIDGE_API Mutant living_mutant();
inline bool mutant(Mutant which) { return living_mutant() == which; }
#else
constexpr bool mutant(Mutant) noexcept { return false; }
#endif

}  // namespace dlbridge::cuda
