// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/cuda/staging.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string>
#include <utility>

#include "copy/copy_plan.h"
#include "device/call.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "operation/operation.h"
#include "staging/enqueue.h"

namespace dlbridge::cuda {
namespace {

// Below this a caller who polls for the copy sees it end before the next kernel would start.
constexpr int64_t kSmallBytes = 64 * 1024;
constexpr int64_t kAlignment = 64;  // of the results of a batch

// Without a snapshot the producer's next kernel runs beside the copy.
Operation::Runs runs_for(const StageOptions& options, int64_t bytes) {
  const bool watched = options.spin_seconds > 0 && bytes <= kSmallBytes;
  return options.snapshot || watched ? Operation::Runs::on_outer_stream
                                     : Operation::Runs::on_copy_stream;
}

bool all_empty(std::span<const TensorView> views) {
  return std::ranges::all_of(views, &TensorView::is_empty);
}

int64_t aligned_bytes(const TensorView& view) {
  return (view.nbytes() + kAlignment - 1) / kAlignment * kAlignment;
}

int64_t total_bytes(std::span<const TensorView> views) {
  return std::transform_reduce(views.begin(), views.end(), int64_t{0}, std::plus<>(),
                               aligned_bytes);
}

Future::Results shared(std::vector<Loan> loans) {
  Future::Results results;
  results.reserve(loans.size());
  for (Loan& loan : loans) results.emplace_back(std::move(loan));
  return results;
}

// Fewer small tensors are copied one by one: a kernel and a copy cost as much.
constexpr size_t kFewestGathered = 4;

// Enqueues the copies of a batch to its results, loans of any kind. Small tensors that follow each
// other go together.
template <typename Results>
void enqueue_batch(Operation& operation, std::span<const TensorView> sources,
                   const Results& results, bool pinned, Waits waits) {
  operation.begin();
  std::vector<GatherParams::Run> runs;
  size_t next = 0;
  const auto is_small_run = [&](size_t i) {
    if (!pinned || sources[i].nbytes() > Operation::kGatherBytes) return false;
    const CopyStep step = plan_copy(sources[i], results[i].view());
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
      enqueue_to_host(operation, sources[i], results[i].view(), pinned, waits);
  }
}

// Allocates results. One block of the pool holds all of them, pageable memory each one if the limit
// does not allow the block. Each refers to the slab, which owns the block after success. Returns
// whether they are pinned. Pageable results must outlive the operation, which may write to them.
bool allocate_results(std::vector<Loan>& results, Operation& operation,
                      std::span<const TensorView> sources, const StageOptions& options) {
  results.reserve(sources.size());
  PinnedBlock block = operation.engine().pool().take(static_cast<size_t>(total_bytes(sources)));
  const bool pinned = static_cast<bool>(block);
  const SharedLoan slab{Loan()};
  std::byte* next = block.data();
  for (const TensorView& source : sources) {
    Loan result = dense_like(source, options.row_major);
    if (source.is_empty() || !pinned) {
      result = allocate_like(result.view());
    } else {
      result.view().data = std::exchange(next, next + aligned_bytes(source));
      result.attach(slab.reference());
    }
    results.push_back(std::move(result));
  }
  operation.hold_results(std::move(block), slab);
  return pinned;
}

std::vector<Loan> empty_results(std::span<const TensorView> sources) {
  std::vector<Loan> results;
  for (const TensorView& source : sources)
    results.push_back(allocate_like(dense_like(source, true).view()));
  return results;
}

// What a waiter does for an operation whose copies are enqueued.
Waiter::Work completion_of(const std::shared_ptr<Operation>& operation) {
  return operation->waiter().prepare([operation] { operation->complete(); });
}

// Lets an operation go on after the call. Requires: it holds all that it uses.
Future go_on(std::shared_ptr<Operation> operation, Waiter::Work&& work,
             std::shared_ptr<const Future::Results> results, double spin_seconds) noexcept {
  if (spin_seconds > 0 && operation->ends_within(spin_seconds))
    operation->complete();
  else
    operation->waiter().post(std::move(work));
  return Future(std::move(operation), std::move(results));
}

// The waiter's thread reads the source.
Future copy_later(Call& call, Loan& source, Loan& target) {
  auto operation = std::make_shared<Operation>(call, Operation::Runs::on_copy_stream);
  SharedLoan from{Loan()};  // `source` and `target` once nothing can fail
  SharedLoan to{Loan()};
  auto results = std::make_shared<const Future::Results>(1, to);
  Waiter::Work work =
      operation->waiter().prepare([operation, &read = from.view(), &written = to.view()] {
        operation->complete([&] {
          const CallGuard guard(operation->engine().api(), operation->device().context());
          enqueue_to_device(*operation, read, written, false);
          operation->end(false);
        });
      });
  operation->expect_loans(2);
  operation->begin();
  from.loan() = std::move(source);
  to.loan() = std::move(target);
  operation->hold(from.reference());
  operation->hold(to.reference());
  return go_on(std::move(operation), std::move(work), std::move(results), 0);
}

// The memory of `given` in a Future; it stays with the caller if that throws.
Future ended_with(Loan& source, Loan& given) {
  SharedLoan target{Loan()};
  Future future = cuda::ended_with({target});
  target.loan() = std::move(given);
  source.reset();
  return future;
}

}  // namespace

Loan stage_to_host(const TensorView& source, Stream producer, const StageOptions& options) {
  return std::move(stage_to_host(std::span(&source, 1), producer, options).front());
}

std::vector<Loan> stage_to_host(std::span<const TensorView> sources, Stream producer,
                                const StageOptions& options) {
  for (const TensorView& source : sources) require_device_memory(source, "x");
  Engine::get();
  if (all_empty(sources)) return empty_results(sources);
  Call call(sources, producer);
  return call.run([&] {
    std::vector<Loan> results;
    Operation operation(call);
    const bool pinned = allocate_results(results, operation, sources, options);
    enqueue_batch(operation, sources, results, pinned, Waits::allowed);
    operation.end(false);
    operation.wait();
    return results;
  });
}

void stage_to_host(const TensorView& source, const TensorView& out, Stream producer,
                   const StageOptions&) {
  require_device_memory(source, "x");
  require_host_memory(out, "out");
  require_same(source, out);
  Engine::get();
  if (source.is_empty()) return;
  Call call(std::span(&source, 1), producer);
  const bool pinned = is_pinned(call.engine, out);
  call.run([&] {
    Operation operation(call);
    operation.begin();
    enqueue_to_host(operation, source, out, pinned, Waits::allowed);
    operation.end(false);
    operation.wait();
  });
}

Future stage_to_host_async(Loan&& source, Stream producer, const StageOptions& options) {
  return stage_to_host_async(std::span<Loan>(&source, 1), producer, options);
}

Future stage_to_host_async(std::span<Loan> sources, Stream producer, const StageOptions& options) {
  std::vector<TensorView> views;
  for (const Loan& source : sources) {
    require_device_memory(source.view(), "x");
    views.push_back(source.view());
  }
  Engine::get();
  if (all_empty(views)) {
    Future future = cuda::ended_with(shared(empty_results(views)));
    for (Loan& source : sources) source.reset();
    return future;
  }
  Call call(views, producer);
  return call.run([&] {
    std::shared_ptr<const Future::Results> results;
    auto operation = std::make_shared<Operation>(call, runs_for(options, total_bytes(views)));
    Waiter::Work work = completion_of(operation);
    std::vector<Loan> fresh;
    const bool pinned = allocate_results(fresh, *operation, views, options);
    results = std::make_shared<const Future::Results>(shared(std::move(fresh)));
    enqueue_batch(*operation, views, *results, pinned, Waits::avoided);
    operation->expect_loans(sources.size());
    operation->end(options.snapshot);
    for (Loan& source : sources) operation->hold(source.release_deleter());
    return go_on(std::move(operation), std::move(work), std::move(results), options.spin_seconds);
  });
}

Future stage_to_host_async(Loan&& source, Loan&& out, Stream producer,
                           const StageOptions& options) {
  const TensorView& from = source.view();
  require_device_memory(from, "x");
  require_host_memory(out.view(), "out");
  require_same(from, out.view());
  Engine::get();
  if (from.is_empty()) return ended_with(source, out);
  Call call(std::span(&from, 1), producer);
  const bool pinned = is_pinned(call.engine, out.view());
  return call.run([&] {
    auto operation = std::make_shared<Operation>(call, runs_for(options, from.nbytes()));
    Waiter::Work work = completion_of(operation);
    SharedLoan target{Loan()};  // `out` once nothing can fail
    auto results = std::make_shared<const Future::Results>(1, target);
    operation->begin();
    enqueue_to_host(*operation, from, out.view(), pinned, Waits::avoided);
    operation->expect_loans(2);
    operation->end(options.snapshot);
    target.loan() = std::move(out);
    operation->hold(target.reference());
    operation->hold(source.release_deleter());
    return go_on(std::move(operation), std::move(work), std::move(results), options.spin_seconds);
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
  if (all_empty(targets)) return;
  Call call(targets, consumer);
  std::vector<bool> pinned;
  for (const TensorView& source : sources) pinned.push_back(is_pinned(call.engine, source));
  call.run([&] {
    Operation operation(call);
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
  const TensorView& to = target.view();
  require_host_memory(source.view(), "x");
  require_device_memory(to, "target");
  require_same(source.view(), to);
  Engine::get();
  if (to.is_empty()) return ended_with(source, target);
  Call call(std::span(&to, 1), consumer);
  const bool pinned = is_pinned(call.engine, source.view());
  return call.run([&] {
    if (options.borrow && !pinned) return copy_later(call, source, target);
    auto operation = std::make_shared<Operation>(call);
    Waiter::Work work = completion_of(operation);
    SharedLoan held{Loan()};  // `target` once nothing can fail
    auto results = std::make_shared<const Future::Results>(1, held);
    operation->begin();
    const bool read = enqueue_to_device(*operation, source.view(), to, pinned);
    operation->expect_loans(2);
    operation->end(true);
    held.loan() = std::move(target);
    operation->hold(held.reference());
    operation->hold(source.release_deleter());
    if (read || pinned)
      return go_on(std::move(operation), std::move(work), std::move(results), options.spin_seconds);
    operation->complete();  // a pageable source has been read on return
    return Future(std::move(operation), std::move(results));
  });
}

}  // namespace dlbridge::cuda
