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

cudaError_t pointer_get_attributes(cudaPointerAttributes* attributes, const void* pointer) {
  return call("pointer_get_attributes", kContext, [&](Caller& caller) {
    const auto at = reinterpret_cast<uintptr_t>(pointer);
    const Place place = caller.state.place_of(at, at + 1, caller.device());
    *attributes = {};
    attributes->type = cudaMemoryTypeUnregistered;
    attributes->device = cudaInvalidDeviceId;
    if (place.on_device()) {
      attributes->type =
          place.kind == Place::managed ? cudaMemoryTypeManaged : cudaMemoryTypeDevice;
      attributes->device = place.allocation->device;
    } else if (place.kind == Place::pinned) {
      attributes->type = cudaMemoryTypeHost;
      attributes->device = place.registration->device;
    } else {
      return cudaSuccess;
    }
    attributes->devicePointer = reinterpret_cast<void*>(at);
    if (place.on_host()) attributes->hostPointer = attributes->devicePointer;
    return cudaSuccess;
  });
}

CUresult mem_get_address_range(CUdeviceptr* begin, size_t* bytes, CUdeviceptr pointer) {
  return driver_call("mem_get_address_range", [&](Caller& caller) {
    const Place place = caller.state.place_of(pointer, pointer + 1, caller.device());
    if (!place.on_device()) return CUDA_ERROR_NOT_FOUND;
    *begin = place.allocation->begin();
    *bytes = place.allocation->bytes;
    return CUDA_SUCCESS;
  });
}

cudaError_t malloc_async(void** pointer, size_t bytes, cudaStream_t handle) {
  return call("malloc_async", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    StreamState& stream = caller.usable_stream(handle);
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    size_t& in_use = state.contexts.at(stream.device).async_bytes;
    const size_t limit = state.config.device_memory_bytes;
    if (bytes > limit || in_use > limit - bytes) return cudaErrorMemoryAllocation;
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
    return cudaSuccess;
  });
}

cudaError_t free_async(void* pointer, cudaStream_t handle) {
  return call("free_async", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    StreamState& stream = caller.usable_stream(handle);
    if (pointer == nullptr) return cudaSuccess;
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
    return cudaSuccess;
  });
}

cudaError_t host_register(void* pointer, size_t bytes, unsigned flags) {
  return call("host_register", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    constexpr unsigned kKnown = cudaHostRegisterPortable | cudaHostRegisterMapped |
                                cudaHostRegisterIoMemory | cudaHostRegisterReadOnly;
    constexpr uintptr_t kPage = 4096;
    const auto begin = reinterpret_cast<uintptr_t>(pointer);
    if (pointer == nullptr || bytes == 0 || (flags & ~kKnown) != 0) return cudaErrorInvalidValue;
    if (bytes > state.config.max_registration_bytes)
      caller.refuse(ReportKind::bad_argument, std::to_string(bytes) + " bytes in one piece");
    // Pages are what is registered.
    const uintptr_t first_page = begin / kPage;
    const uintptr_t last_page = (begin + bytes - 1) / kPage;
    for (const auto& [other_begin, other] : state.registrations) {
      if (other.begin / kPage <= last_page && first_page <= (other.end() - 1) / kPage) {
        return cudaErrorHostMemoryAlreadyRegistered;
      }
    }
    const size_t registered = state.bytes_registered();
    const size_t limit = state.config.max_registered_bytes_total;
    if (bytes > limit || registered > limit - bytes) return cudaErrorMemoryAllocation;
    state.wait_for_running(caller.lock);
    state.registrations[begin] = {begin, bytes, flags, caller.device()};
    state.peak_registered = std::max(state.peak_registered, registered + bytes);
    return cudaSuccess;
  });
}

cudaError_t host_unregister(void* pointer) {
  return call("host_unregister", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    const auto found = state.registrations.find(reinterpret_cast<uintptr_t>(pointer));
    if (found == state.registrations.end())
      caller.refuse(ReportKind::bad_argument, "memory that is not registered",
                    cudaErrorHostMemoryNotRegistered);
    state.wait_for_running(caller.lock);
    state.release(found->second.begin, found->second.end(), "host_unregister");
    state.registrations.erase(found);
    return cudaSuccess;
  });
}

}  // namespace dlbridge::cuda_sim::functions
