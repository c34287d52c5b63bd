// The steps of a staging in words, from the same plans that the copies are made by.
#include "checks.h"
#include "copy_plan.h"
#include "dlbridge/staging.h"
#include "operation.h"
#include "results.h"

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

bool fits(PinnedPool& pool, int64_t bytes) {
  const PinnedStats stats = pool.stats();
  const size_t in_use = stats.registered - stats.free;
  return in_use <= stats.limit && static_cast<size_t>(bytes) <= stats.limit - in_use;
}

}  // namespace

std::vector<std::string> staging_steps(const TensorView& source, DLDevice target) {
  if (source.is_empty()) return {words_for(CopyKind::empty)};
  Engine& engine = Engine::get();
  std::vector<std::string> steps;
  int64_t shape[PackParams::kMaxRank];
  int64_t strides[PackParams::kMaxRank];
  TensorView moved = source;
  if (has_broadcast(source)) {
    moved = without_broadcast(source, shape, strides);
    steps.emplace_back("repeated elements once");
  }
  const Loan dense = describe_result(moved, false);
  const CopyKind kind = plan_copy(moved, dense.view()).kind;
  if (Device(target).is_host()) {
    steps.emplace_back(words_for(kind));
    steps.emplace_back(fits(engine.pool(), source.nbytes()) ? "pooled pinned memory"
                                                            : "pageable memory through a ring");
    return steps;
  }
  // On the way to a device the host's own copy makes strided memory dense.
  const bool direct = kind != CopyKind::pack && is_pinned(engine, moved);
  steps.emplace_back(direct ? words_for(kind) : words_for(CopyKind::flat));
  steps.emplace_back(direct ? "from pinned memory" : "from pageable memory through a ring");
  return steps;
}

}  // namespace dlbridge::cuda
