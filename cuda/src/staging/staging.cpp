// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/cuda/staging.h"

#include <algorithm>
#include <string>
#include <utility>

#include "copy/copy_plan.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "operation/handed_in.h"
#include "operation/operation.h"
#include "operation/results.h"
#include "runtime/cuda_error.h"
#include "runtime/guards.h"
#include "staging/checks.h"
#include "staging/to_device.h"
#include "staging/to_host.h"

namespace dlbridge::cuda {
namespace {

// Below this a caller who polls for the copy sees it end before the next kernel would start.
constexpr int64_t kSmallBytes = 64 * 1024;

// One device and one checked stream for a call, with the device's context current.
class Call {
 public:
  Call(const TensorView& on_device, Stream outer)
      : engine(Engine::get()),
        device(engine.device_of(on_device)),
        guard_(engine.api(), device.context()),
        stream(engine.checked(outer, device, guard_.callers())) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  // Starts the reuse of results that were dropped meanwhile.
  ~Call() { engine.pool().poll_if_due(); }

  Engine& engine;
  DeviceContext& device;

 private:
  CallGuard guard_;

 public:
  CheckedStream stream;
};

// Without a snapshot the producer's next kernel runs beside the copy.
Operation::Runs runs_for(const StageOptions& options, int64_t bytes) {
  const bool watched = options.spin_seconds > 0 && bytes <= kSmallBytes;
  return options.snapshot || watched ? Operation::Runs::on_outer_stream
                                     : Operation::Runs::on_copy_stream;
}

// Marks the device as failed if the error says so, and rethrows.
template <typename Body>
auto noting(DeviceContext& device, Body&& body) {
  try {
    return body();
  } catch (const CudaError& error) {
    device.fails_with(error.cuda_code());
    throw;
  }
}

// Returns the first view with elements, or null.
const TensorView* first_with_elements(std::span<const TensorView> views) {
  for (const TensorView& view : views) {
    if (!view.is_empty()) return &view;
  }
  return nullptr;
}

int64_t total_bytes(std::span<const TensorView> views) {
  int64_t bytes = 0;
  for (const TensorView& view : views) bytes += view.nbytes();
  return bytes;
}

// Fewer small tensors are copied one by one: a kernel and a copy cost as much.
constexpr size_t kFewestGathered = 4;

// Enqueues the copies of a batch. Small tensors that follow each other go together.
void enqueue_batch(Operation& operation, std::span<const TensorView> sources,
                   const HostResults& results, bool pinned, Waits waits) {
  std::vector<GatherParams::Run> runs;
  size_t next = 0;
  const auto is_small_run = [&](size_t i) {
    if (!pinned || sources[i].nbytes() > Operation::kGatherBytes) return false;
    const CopyStep step = plan_copy(sources[i], results.view(i));
    if (step.kind == CopyKind::flat) runs.push_back({step.source, step.target, step.bytes});
    return step.kind == CopyKind::flat || step.kind == CopyKind::empty;
  };
  while (next < sources.size()) {
    const size_t first = next;
    runs.clear();
    while (next < sources.size() && is_small_run(next)) ++next;
    if (runs.size() >= kFewestGathered && operation.gather(runs)) continue;
    next = std::max(next, first + 1);
    for (size_t i = first; i < next; ++i)
      enqueue_to_host(operation, sources[i], results.view(i), pinned, waits);
  }
}

int64_t largest_bytes(std::span<const TensorView> views) {
  int64_t bytes = 0;
  for (const TensorView& view : views) bytes = std::max(bytes, view.nbytes());
  return bytes;
}

}  // namespace

Loan stage_to_host(const TensorView& source, Stream producer, const StageOptions& options) {
  require_device_memory(source, "x");
  Engine::get();
  if (source.is_empty()) return empty_result(source);
  Call call(source, producer);
  return noting(call.device, [&] {
    HostResult result(call.engine.pool(), source, options.row_major);
    Operation operation(call.engine, call.device, call.stream);
    const bool pinned = result.is_pinned();
    if (pinned) operation.hold_result(result.take_block());
    operation.begin();
    enqueue_to_host(operation, source, result.view(), pinned, Waits::allowed);
    operation.end(false);
    operation.wait();
    return result.finish(operation.take_result());
  });
}

void stage_to_host(const TensorView& source, const TensorView& out, Stream producer,
                   const StageOptions&) {
  require_device_memory(source, "x");
  require_host_memory(out, "out");
  require_same(source, out);
  Engine::get();
  if (source.is_empty()) return;
  Call call(source, producer);
  const bool pinned = is_pinned(call.engine, out);
  noting(call.device, [&] {
    Operation operation(call.engine, call.device, call.stream);
    operation.begin();
    enqueue_to_host(operation, source, out, pinned, Waits::allowed);
    operation.end(false);
    operation.wait();
  });
}

Future stage_to_host_async(Loan&& source, Stream producer, const StageOptions& options) {
  return stage_to_host_async(std::span<Loan>(&source, 1), producer, options);
}

Future stage_to_host_async(Loan&& source, Loan&& out, Stream producer,
                           const StageOptions& options) {
  require_device_memory(source.view(), "x");
  require_host_memory(out.view(), "out");
  require_same(source.view(), out.view());
  Engine::get();
  if (source.view().is_empty()) return ended_with(std::move(source), std::move(out));
  Call call(source.view(), producer);
  const bool pinned = is_pinned(call.engine, out.view());
  return noting(call.device, [&] {
    HandedIn target(out);
    auto operation = std::make_unique<Operation>(call.engine, call.device, call.stream,
                                                 runs_for(options, source.view().nbytes()));
    operation->waiter().start();
    auto state = std::make_shared<FutureState>(std::vector{target.loan()});
    operation->publish_to(state->completion());
    operation->hold(target.loan());
    operation->begin();
    enqueue_to_host(*operation, source.view(), target.loan().view(), pinned, Waits::avoided);
    operation->expect_loans(1);
    operation->end(options.snapshot);
    operation->hold(std::move(source));
    target.keep();
    Operation::post_after(options.spin_seconds, std::move(operation));
    return Future(std::move(state));
  });
}

Future stage_to_host_async(std::span<Loan> sources, Stream producer, const StageOptions& options) {
  std::vector<TensorView> views;
  for (const Loan& source : sources) {
    require_device_memory(source.view(), "x");
    views.push_back(source.view());
  }
  Engine::get();
  const TensorView* first = first_with_elements(views);
  if (first == nullptr) return ended_with_empty(sources);
  Call call(*first, producer);
  require_one_device(call.engine, views, call.device);
  return noting(call.device, [&] {
    HostResults results(call.engine.pool(), views, options.row_major);
    auto operation = std::make_unique<Operation>(call.engine, call.device, call.stream,
                                                 runs_for(options, total_bytes(views)));
    operation->waiter().start();
    auto state = std::make_shared<FutureState>(results.shared());
    operation->publish_to(state->completion());
    const bool pinned = results.is_pinned();
    if (pinned) operation->give_on_success(results.take_block(), results.slab());
    operation->expect(largest_bytes(views));
    operation->begin();
    enqueue_batch(*operation, views, results, pinned, Waits::avoided);
    operation->expect_loans(sources.size());
    operation->end(options.snapshot);
    for (Loan& source : sources) operation->hold(std::move(source));
    Operation::post_after(options.spin_seconds, std::move(operation));
    return Future(std::move(state));
  });
}

std::vector<Loan> stage_to_host(std::span<const TensorView> sources, Stream producer,
                                const StageOptions& options) {
  for (const TensorView& source : sources) require_device_memory(source, "x");
  Engine::get();
  std::vector<Loan> out;
  const TensorView* first = first_with_elements(sources);
  if (first == nullptr) {
    for (const TensorView& source : sources) out.push_back(empty_result(source));
    return out;
  }
  Call call(*first, producer);
  require_one_device(call.engine, sources, call.device);
  return noting(call.device, [&] {
    HostResults results(call.engine.pool(), sources, options.row_major);
    const auto shared = results.shared();
    Operation operation(call.engine, call.device, call.stream);
    const bool pinned = results.is_pinned();
    if (pinned) operation.give_on_success(results.take_block(), results.slab());
    operation.expect(largest_bytes(sources));
    operation.begin();
    enqueue_batch(operation, sources, results, pinned, Waits::allowed);
    operation.end(false);
    operation.wait();
    for (const SharedLoan& loan : shared) out.push_back(loan.share());
    return std::move(out);
  });
}

void stage_to_device(const TensorView& source, const TensorView& target, Stream consumer,
                     const StageOptions& options) {
  stage_to_device(std::span(&source, 1), std::span(&target, 1), consumer, options);
}

void stage_to_device(std::span<const TensorView> sources, std::span<const TensorView> targets,
                     Stream consumer, const StageOptions&) {
  if (sources.size() != targets.size()) {
    throw Error(ErrorCode::invalid_argument, "targets",
                "there are " + std::to_string(targets.size()) + " targets for " +
                    std::to_string(sources.size()) + " sources; expected one each");
  }
  for (size_t i = 0; i < sources.size(); ++i) {
    require_host_memory(sources[i], "x");
    require_device_memory(targets[i], "target");
    require_same(sources[i], targets[i]);
  }
  Engine::get();
  const TensorView* first = first_with_elements(targets);
  if (first == nullptr) return;
  Call call(*first, consumer);
  require_one_device(call.engine, targets, call.device);
  std::vector<bool> pinned;
  for (const TensorView& source : sources) pinned.push_back(is_pinned(call.engine, source));
  noting(call.device, [&] {
    Operation operation(call.engine, call.device, call.stream);
    operation.expect(largest_bytes(targets));
    operation.begin();
    bool read = true;
    for (size_t i = 0; i < sources.size(); ++i)
      read &= enqueue_to_device(operation, sources[i], targets[i], pinned[i]);
    operation.end(true);
    if (read && call.stream.ordered)
      operation.leave();
    else
      operation.wait();
  });
}

Future stage_to_device_async(Loan&& source, Loan&& target, Stream consumer,
                             const StageOptions& options) {
  require_host_memory(source.view(), "x");
  require_device_memory(target.view(), "target");
  require_same(source.view(), target.view());
  Engine::get();
  if (source.view().is_empty()) return ended_with(std::move(source), std::move(target));
  Call call(target.view(), consumer);
  const bool pinned = is_pinned(call.engine, source.view());
  return noting(call.device, [&] {
    HandedIn kept(target);
    const bool deferred = options.borrow && !pinned;
    auto operation = std::make_unique<Operation>(
        call.engine, call.device, call.stream,
        deferred ? Operation::Runs::on_copy_stream : Operation::Runs::on_outer_stream);
    operation->waiter().start();
    auto state = std::make_shared<FutureState>(std::vector{kept.loan()});
    operation->publish_to(state->completion());
    operation->hold(kept.loan());
    if (deferred) {
      auto later = std::make_unique<DeferredCopy>(std::move(operation), kept.loan().view());
      later->begin();
      kept.keep();
      DeferredCopy::post(std::move(later), std::move(source));
      return Future(std::move(state));
    }
    operation->begin();
    const bool read = enqueue_to_device(*operation, source.view(), kept.loan().view(), pinned);
    operation->expect_loans(1);
    operation->end(true);
    operation->hold(std::move(source));
    kept.keep();
    // A pageable source has been read on return.
    if (!read && !pinned)
      operation->complete();
    else
      Operation::post_after(options.spin_seconds, std::move(operation));
    return Future(std::move(state));
  });
}

}  // namespace dlbridge::cuda
