// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/cuda/staging.h"

#include <algorithm>
#include <array>
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

// Fewer small tensors are copied one by one: a kernel and a copy cost as much.
constexpr size_t kFewestGathered = 4;

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

// The bytes of a block for all results. Throws Error (out_of_memory) if no block can have so many.
int64_t total_bytes(std::span<const TensorView> views) {
  int64_t total = 0;
  for (const TensorView& view : views) {
    if (__builtin_add_overflow(total, view.nbytes(), &total) ||
        __builtin_add_overflow(total, kAlignment - 1, &total)) {
      throw Error(ErrorCode::out_of_memory, "memory",
                  "the results have more bytes than memory has addresses: stage fewer, or the "
                  "elements before they are repeated");
    }
    total -= total % kAlignment;
  }
  return total;
}

template <typename Loans>
std::vector<TensorView> views_of(const Loans& loans) {
  std::vector<TensorView> views;
  views.reserve(loans.size());
  for (const auto& loan : loans) views.push_back(loan.view());
  return views;
}

Future::Results shared(std::vector<Loan> loans) {
  Future::Results results;
  results.reserve(loans.size());
  for (Loan& loan : loans) results.emplace_back(std::move(loan));
  return results;
}

// ---- What is copied

void require_device(bool found, const TensorView& view, const char* field, const char* expected) {
  if (found) return;
  const Device device(view.device);
  throw Error(ErrorCode::unsupported_device, field,
              std::string(field) + " is on " + device.name() + "; expected " + expected +
                  (device.is_host() ? ": copy on the host with copy_host"
                                    : ": copy it to the host first, with its own library"));
}

void require_on_device(std::span<const TensorView> sources) {
  for (const TensorView& source : sources) {
    require_device(Device(source.device).is_cuda(), source, "x", "memory of a CUDA device");
    // Refuses strides that would move elements without addresses.
    if (is_packed(source)) static_cast<void>(plan_copy(source, dense_like(source).view()));
  }
}

Direction direction_of(const TensorView& source, const TensorView& target) {
  const Device from(source.device);
  const Device to(target.device);
  const char* const either = "memory of a CUDA device or of the host";
  require_device(from.is_host() || from.is_cuda(), source, "x", either);
  require_device(to.is_host() || to.is_cuda(), target, "target", either);
  if (from.is_host() && to.is_host()) {
    throw Error(ErrorCode::unsupported_device, "device",
                "x and target are both on the host; expected one of them on a CUDA device: copy on "
                "the host with copy_host");
  }
  if (to.is_host()) return Direction::to_host;
  return from.is_host() ? Direction::to_device : Direction::on_device;
}

void require_same(const TensorView& source, const TensorView& target) {
  // Both count as host memory: managed memory has one address on both sides.
  TensorView from = source;
  TensorView to = target;
  from.device = to.device = Device(DeviceType::cpu);
  require_copyable(from, to);
  if (is_packed(source)) static_cast<void>(plan_copy(source, target));
}

// The copies of one call.
struct Copies {
  /// Throws Error where they do not fit each other.
  Copies(std::vector<TensorView> from, std::vector<TensorView> to)
      : sources(std::move(from)), targets(std::move(to)) {
    if (sources.size() != targets.size()) {
      throw Error(ErrorCode::invalid_argument, "targets",
                  "there are " + std::to_string(targets.size()) + " targets for " +
                      std::to_string(sources.size()) + " sources; expected one each");
    }
    for (size_t i = 0; i < sources.size(); ++i) {
      const Direction found = direction_of(sources[i], targets[i]);
      if (i > 0 && found != direction) {
        throw Error(ErrorCode::invalid_argument, "targets",
                    "the batch has copies of different directions; expected one direction: make a "
                    "batch of each");
      }
      direction = found;
      require_same(sources[i], targets[i]);
    }
  }

  std::vector<TensorView> on_device() const {
    std::vector<TensorView> views;
    if (direction != Direction::to_device) views = sources;
    if (direction != Direction::to_host) views.insert(views.end(), targets.begin(), targets.end());
    return views;
  }

  void find_pinned(Engine& engine) {
    for (size_t i = 0; i < sources.size(); ++i) {
      const TensorView& on_host = direction == Direction::to_host ? targets[i] : sources[i];
      pinned.push_back(direction == Direction::on_device || is_pinned(engine, on_host));
    }
  }

  std::vector<TensorView> sources;
  std::vector<TensorView> targets;
  Direction direction = Direction::to_host;
  std::vector<bool> pinned;  // the host side of each
  std::vector<Loan> kept;    // what the views of sources refer to after the call
};

// The memory on the host that an operation reads after the call.
struct Reads {
  bool pageable = false;
  bool pinned = false;
};

Reads enqueue_all(Operation& operation, const Copies& copies, Waits waits) {
  Reads reads;
  for (size_t i = 0; i < copies.sources.size(); ++i) {
    const bool read = enqueue(operation, copies.sources[i], copies.targets[i], copies.direction,
                              copies.pinned[i], waits);
    if (!read) (copies.pinned[i] ? reads.pinned : reads.pageable) = true;
  }
  return reads;
}

// ---- Fresh results

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

// Enqueues the copies to fresh results, loans of any kind. Small tensors that follow each other go
// together.
template <typename Results>
void enqueue_results(Operation& operation, std::span<const TensorView> sources,
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
      enqueue(operation, sources[i], results[i].view(), Direction::to_host, pinned, waits);
  }
}

// ---- Futures

// Lets an operation go on after the call. Requires: it holds all that it uses.
Future go_on(std::shared_ptr<Operation> operation, Waiter::Work&& work,
             std::shared_ptr<const Future::Results> results, double spin_seconds) noexcept {
  if (spin_seconds > 0 && operation->ends_within(spin_seconds))
    operation->complete();
  else
    operation->waiter().post(std::move(work));
  return Future(std::move(operation), std::move(results));
}

}  // namespace

std::vector<Loan> stage_to_host(std::span<const TensorView> sources, Stream producer,
                                const StageOptions& options) {
  require_on_device(sources);
  Engine::get();
  if (all_empty(sources)) return empty_results(sources);
  Call call(sources, producer);
  return call.run([&] {
    std::vector<Loan> results;
    Operation operation(call);
    const bool pinned = allocate_results(results, operation, sources, options);
    enqueue_results(operation, sources, results, pinned, Waits::allowed);
    operation.end(false);
    operation.wait();
    return results;
  });
}

Future stage_to_host_async(std::span<Loan> sources, Stream producer, const StageOptions& options) {
  const std::vector<TensorView> views = views_of(sources);
  require_on_device(views);
  Engine::get();
  if (all_empty(views)) {
    Future future = ended_with(shared(empty_results(views)));
    for (Loan& source : sources) source.reset();
    return future;
  }
  Call call(views, producer);
  return call.run([&] {
    std::shared_ptr<const Future::Results> results;
    auto operation = std::make_shared<Operation>(call, runs_for(options, total_bytes(views)));
    Waiter::Work work = operation->waiter().prepare([operation] { operation->complete(); });
    std::vector<Loan> fresh;
    const bool pinned = allocate_results(fresh, *operation, views, options);
    results = std::make_shared<const Future::Results>(shared(std::move(fresh)));
    enqueue_results(*operation, views, *results, pinned, Waits::avoided);
    operation->expect_loans(2 * sources.size());
    operation->end(options.snapshot);
    if (!pinned) {  // they must outlive the operation, and every Future may be dropped before
      for (const SharedLoan& result : *results) operation->hold(result.reference());
    }
    for (Loan& source : sources) operation->hold(source.release_deleter());
    return go_on(std::move(operation), std::move(work), std::move(results), options.spin_seconds);
  });
}

void stage(std::span<const TensorView> sources, std::span<const TensorView> targets,
           Stream stream) {
  Copies copies({sources.begin(), sources.end()}, {targets.begin(), targets.end()});
  Engine::get();
  if (all_empty(sources)) return;
  Call call(copies.on_device(), stream);
  copies.find_pinned(call.engine);
  call.run([&] {
    Operation operation(call);
    operation.begin();
    const Reads reads = enqueue_all(operation, copies, Waits::allowed);
    operation.end(true);
    if (copies.direction == Direction::to_host || reads.pageable || reads.pinned ||
        !call.stream.ordered)
      operation.wait();
    else
      operation.leave();
  });
}

Future stage_async(std::span<Loan> sources, std::span<Loan> targets, Stream stream,
                   const StageOptions& options) {
  const auto copies = std::make_shared<Copies>(views_of(sources), views_of(targets));
  Engine::get();
  Future::Results to = shared(std::vector<Loan>(targets.size()));
  const auto take_targets = [&]() noexcept {  // once nothing can fail
    for (size_t i = 0; i < to.size(); ++i) to[i].loan() = std::move(targets[i]);
  };
  if (all_empty(copies->sources)) {
    Future future = ended_with(to);
    take_targets();
    for (Loan& source : sources) source.reset();
    return future;
  }
  Call call(copies->on_device(), stream);
  copies->find_pinned(call.engine);
  const bool to_host = copies->direction == Direction::to_host;
  // Then the waiter's thread reads the sources.
  const bool later = options.borrow && copies->direction == Direction::to_device &&
                     std::ranges::find(copies->pinned, false) != copies->pinned.end();
  return call.run([&] {
    using Runs = Operation::Runs;
    const Runs runs = to_host ? runs_for(options, total_bytes(copies->sources))
                      : later ? Runs::on_copy_stream
                              : Runs::on_outer_stream;
    auto operation = std::make_shared<Operation>(call, runs);
    auto results = std::make_shared<const Future::Results>(to);
    Waiter::Work work = operation->waiter().prepare([operation, copies, later] {
      if (!later) return operation->complete();
      operation->complete([&] {
        const CallGuard guard(operation->engine().api(), operation->device().context());
        enqueue_all(*operation, *copies, Waits::allowed);
        operation->end(false);
      });
    });
    operation->begin();
    Reads reads;
    if (!later) reads = enqueue_all(*operation, *copies, to_host ? Waits::avoided : Waits::allowed);
    if (later) copies->kept.resize(sources.size());
    operation->expect_loans(2 * sources.size());
    if (!later) operation->end(!to_host || options.snapshot);
    take_targets();
    for (size_t i = 0; i < to.size(); ++i) {
      operation->hold(to[i].reference());
      operation->hold(sources[i].release_deleter());
      if (!later) continue;
      copies->sources[i] = (copies->kept[i] = std::move(sources[i])).view();
      copies->targets[i] = to[i].view();
    }
    if (to_host || !reads.pageable)
      return go_on(std::move(operation), std::move(work), std::move(results),
                   later ? 0 : options.spin_seconds);
    operation->complete();
    return Future(std::move(operation), std::move(results));
  });
}

}  // namespace dlbridge::cuda
