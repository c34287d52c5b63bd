// SPDX-License-Identifier: Apache-2.0
// Stream-ordered allocation and registration, as the table offers them.
#include "call.h"

namespace dlbridge::cuda_sim::functions {
namespace {

// An allocation of the stream's order that its later work may have again.
std::shared_ptr<Mapping> reusable(State& state, const StreamState& stream, size_t bytes) {
  if (!state.config.reuse_addresses) return nullptr;
  for (const auto& [begin, allocation] : state.allocations) {
    if (allocation->freed && allocation->ended.stream == &stream &&
        allocation->mapping->bytes() >= bytes) {
      return allocation->mapping;
    }
  }
  return nullptr;
}

}  // namespace

CUresult pointer_get_attributes(unsigned count, CUpointer_attribute* asked, void** answers,
                                const void* pointer) {
  return call("pointer_get_attributes", kContext, [&](Caller& caller) {
    const auto at = reinterpret_cast<uintptr_t>(pointer);
    const Place place = caller.state.place_of(at, at + 1, caller.device());
    const bool pinned = place.kind == Place::pinned;
    for (unsigned i = 0; i < count; ++i) {
      int& answer = *static_cast<int*>(answers[i]);
      switch (asked[i]) {
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
          answer = place.on_device() ? int{CU_MEMORYTYPE_DEVICE}
                   : pinned          ? int{CU_MEMORYTYPE_HOST}
                                     : 0;
          break;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED:
          answer = place.kind == Place::managed ? 1 : 0;
          break;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
          answer = place.on_device() ? place.allocation->device
                   : pinned          ? place.registration->device
                                     : -2;
          break;
      }
    }
    return CUDA_SUCCESS;
  });
}

CUresult mem_get_address_range(void** begin, size_t* bytes, const void* pointer) {
  return driver_call("mem_get_address_range", [&](Caller& caller) {
    const auto at = reinterpret_cast<uintptr_t>(pointer);
    const Place place = caller.state.place_of(at, at + 1, caller.device());
    if (!place.on_device()) return CUDA_ERROR_NOT_FOUND;
    *begin = reinterpret_cast<void*>(place.allocation->begin());
    *bytes = place.allocation->bytes;
    return CUDA_SUCCESS;
  });
}

CUresult malloc_async(void** pointer, size_t bytes, CUstream handle) {
  return call("malloc_async", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    StreamState& stream = caller.usable_stream(handle);
    *pointer = nullptr;
    if (bytes == 0) return CUDA_SUCCESS;
    size_t& in_use = state.contexts.at(stream.device).async_bytes;
    const size_t limit = state.config.device_memory_bytes;
    if (bytes > limit || in_use > limit - bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    const auto allocation =
        state.allocate(bytes, stream.device, false, reusable(state, stream, bytes));
    allocation->stream_ordered = true;
    in_use += bytes;
    state.peak_async = std::max(state.peak_async, state.bytes_allocated());
    *pointer = reinterpret_cast<void*>(allocation->begin());
    const OperationPtr birth = operation("allocation of " + std::to_string(bytes) + " bytes at " +
                                         hex(allocation->begin()));
    if (stream.capture == nullptr) allocation->born = {&stream, stream.numbers + 1};
    birth->accesses.push_back(state.access(ByteSet(*pointer, bytes), true, stream.device));
    caller.submit(stream, birth);
    return CUDA_SUCCESS;
  });
}

CUresult free_async(void* pointer, CUstream handle) {
  return call("free_async", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    StreamState& stream = caller.usable_stream(handle);
    if (pointer == nullptr) return CUDA_SUCCESS;
    const auto found = state.allocations.find(reinterpret_cast<uintptr_t>(pointer));
    if (found == state.allocations.end() || found->second->managed)
      caller.refuse(ReportKind::bad_argument, "no allocation");
    const std::shared_ptr<Allocation> allocation = found->second;
    if (allocation->freed) caller.refuse(ReportKind::use_after_destroy, "a second time");
    const OperationPtr end = operation("free of " + hex(allocation->begin()));
    end->accesses.push_back(state.access(ByteSet(pointer, allocation->bytes), true, stream.device));
    end->releases = true;
    end->poisons = false;
    end->run = [mapping = allocation->mapping] { mapping->discard(); };
    if (allocation->stream_ordered)
      state.contexts.at(allocation->device).async_bytes -= allocation->bytes;
    allocation->freed = true;
    allocation->ended = {&stream, stream.numbers + 1};
    state.retire(allocation->begin());
    caller.submit(stream, end);
    return CUDA_SUCCESS;
  });
}

CUresult host_register(void* pointer, size_t bytes, unsigned flags) {
  return call("host_register", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    constexpr unsigned kKnown = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP |
                                CU_MEMHOSTREGISTER_IOMEMORY | CU_MEMHOSTREGISTER_READ_ONLY;
    constexpr uintptr_t kPage = 4096;
    const auto begin = reinterpret_cast<uintptr_t>(pointer);
    if (pointer == nullptr || bytes == 0 || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
    if (bytes > state.config.max_registration_bytes)
      caller.refuse(ReportKind::bad_argument, std::to_string(bytes) + " bytes in one piece");
    // Pages are what is registered.
    const uintptr_t first_page = begin / kPage;
    const uintptr_t last_page = (begin + bytes - 1) / kPage;
    for (const auto& [other_begin, other] : state.registrations) {
      if (other.begin / kPage <= last_page && first_page <= (other.end() - 1) / kPage) {
        return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
      }
    }
    const size_t registered = state.bytes_registered();
    const size_t limit = state.config.max_registered_bytes_total;
    if (bytes > limit || registered > limit - bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    state.wait_for_running(caller.lock);
    state.registrations[begin] = {begin, bytes, flags, caller.device()};
    state.peak_registered = std::max(state.peak_registered, registered + bytes);
    return CUDA_SUCCESS;
  });
}

CUresult host_unregister(void* pointer) {
  return call("host_unregister", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    const auto found = state.registrations.find(reinterpret_cast<uintptr_t>(pointer));
    if (found == state.registrations.end())
      caller.refuse(ReportKind::bad_argument, "memory that is not registered",
                    CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    state.wait_for_running(caller.lock);
    state.release(found->second.begin, found->second.end(), "host_unregister");
    state.registrations.erase(found);
    return CUDA_SUCCESS;
  });
}

}  // namespace dlbridge::cuda_sim::functions
