// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/cuda/pinned_memory.h"

#include <string>

#include "device/call.h"
#include "dlbridge/copy.h"
#include "staging/enqueue.h"

namespace dlbridge::cuda {

Loan pinned_empty(const TensorView& like) {
  Engine& engine = Engine::get();
  if (like.is_empty()) {
    Loan nothing = allocate_like(dense_like(like, true).view());
    nothing.view().is_copied = false;
    return nothing;
  }
  const CallGuard guard(engine.api(), engine.any_context());
  PinnedBlock block = engine.pool().take(static_cast<size_t>(like.nbytes()));
  if (!block) {
    const PinnedStats pool = engine.pool().stats();
    throw Error(ErrorCode::out_of_memory, "pinned memory",
                std::to_string(like.nbytes()) +
                    " bytes of pinned memory do not fit into the limit of " +
                    std::to_string(pool.limit) +
                    (pool.register_failed == 0
                         ? ": raise it with set_pinned_limit, or drop results that are held"
                         : ", which was lowered since CUDA refused to register more: drop results "
                           "that are held"));
  }
  Loan loan = dense_like(like);
  loan.view().is_copied = false;
  loan.view().data = block.data();
  loan.attach(std::move(block).into_deleter());
  return loan;
}

PinnedStats pinned_stats() {
  Engine& engine = Engine::get();
  engine.pool().poll(false);  // so that the figures are current
  return engine.pool().stats();
}

void reserve_pinned(size_t bytes) {
  Engine& engine = Engine::get();
  const CallGuard guard(engine.api(), engine.any_context());
  engine.pool().reserve(bytes);
}

void set_pinned_limit(size_t bytes) { Engine::get().pool().set_limit(bytes); }

size_t trim_pinned(size_t keep_bytes) { return Engine::get().pool().trim(keep_bytes); }

bool record_stream(const void* address, Stream stream) {
  Engine& engine = Engine::get();
  if (!engine.pool().holds(address)) return false;
  Call call(engine.device(stream.device.device_id), stream);
  if (!call.stream.ordered) {
    throw Error(ErrorCode::stream_invalid, "stream",
                "stream is -1; expected the stream that uses the memory");
  }
  PooledEvent event = call.device.events().take();
  check(engine.api().event_record(event.get(), call.stream.handle), "cuEventRecord");
  return engine.pool().add_ticket(address, std::move(event));
}

bool is_page_locked(const TensorView& view) {
  Engine& engine = Engine::get();
  const CUcontext context = engine.context_in_use();
  if (context == nullptr) return false;  // then no page is locked
  const CallGuard guard(engine.api(), context);
  return is_pinned(engine, view);
}

int32_t device_of_pinned(const void* address) {
  const PointerAttributes found = Engine::get().find(address);
  return found.kind == MemoryKind::pinned ? found.device : -1;
}

}  // namespace dlbridge::cuda
