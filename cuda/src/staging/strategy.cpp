// SPDX-License-Identifier: Apache-2.0
// The strategy of a staging in words, from the plans that the copies use.
#include "copy/copy_plan.h"
#include "dlbridge/copy.h"
#include "dlbridge/cuda/pinned_memory.h"
#include "dlbridge/cuda/staging.h"
#include "staging/enqueue.h"

namespace dlbridge::cuda {
namespace {

const char* words_for(CopyKind kind) {
  switch (kind) {
    case CopyKind::empty:
      return "no copy";
    case CopyKind::flat:
      return "one copy";
    case CopyKind::rows:
      return "2D copy";
    case CopyKind::boxes:
      return "3D copy";
    case CopyKind::pack:
      return "pack kernel";
  }
  return "unknown";
}

// What pageable memory passes through.
const char* passage_for(const PinnedStats& pool, int64_t bytes) {
  if (bytes <= kOneBlockBytes && pool.has_room_for(static_cast<size_t>(bytes)))
    return " through a pinned block";
  return pool.has_room_for(2 * kSmallestSlot) ? " through a ring" : "";
}

}  // namespace

std::vector<std::string> staging_strategy(const TensorView& source, DLDevice target) {
  if (source.is_empty()) return {words_for(CopyKind::empty)};
  const PinnedStats pool = Engine::get().pool().stats();
  std::vector<std::string> steps;
  const bool repeats = broadcast_dimension(source) >= 0;
  const Loan once = repeats ? each_once(source) : Loan();
  const TensorView& moved = repeats ? once.view() : source;
  if (repeats) steps.emplace_back("repeated elements once");
  const Loan dense = dense_like(moved);
  const CopyKind kind = plan_copy(moved, dense.view()).kind;
  if (Device(target).is_host()) {
    steps.emplace_back(words_for(kind));
    const bool pooled = pool.has_room_for(static_cast<size_t>(source.nbytes()));
    steps.emplace_back(pooled
                           ? "pooled pinned memory"
                           : std::string("pageable memory") + passage_for(pool, source.nbytes()));
    return steps;
  }
  // On the way to a device the host's own copy makes strided memory dense.
  const bool pinned = is_page_locked(moved);
  const bool direct = pinned && kind != CopyKind::pack;
  steps.emplace_back(words_for(direct ? kind : CopyKind::flat));
  steps.emplace_back(std::string(pinned ? "from pinned memory" : "from pageable memory") +
                     (direct ? "" : passage_for(pool, moved.nbytes())));
  return steps;
}

}  // namespace dlbridge::cuda
