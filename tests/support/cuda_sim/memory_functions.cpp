// SPDX-License-Identifier: Apache-2.0
// Copies, stream-ordered allocation and registration, as the table offers them.
#include "copies.h"
#include "functions.h"

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
    void* mutable_pointer = reinterpret_cast<void*>(at);
    switch (place.kind) {
      case Place::device:
        attributes->type = cudaMemoryTypeDevice;
        attributes->device = place.allocation->device;
        attributes->devicePointer = mutable_pointer;
        break;
      case Place::managed:
        attributes->type = cudaMemoryTypeManaged;
        attributes->device = place.allocation->device;
        attributes->devicePointer = attributes->hostPointer = mutable_pointer;
        break;
      case Place::pinned:
        attributes->type = cudaMemoryTypeHost;
        attributes->device = place.registration->device;
        attributes->devicePointer = attributes->hostPointer = mutable_pointer;
        break;
      case Place::pageable:
      case Place::freed:
      case Place::broken:
        break;
    }
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

cudaError_t memcpy_async(void* target, const void* source, size_t bytes, cudaMemcpyKind kind,
                         cudaStream_t stream) {
  return call("memcpy_async", kContext, [&](Caller& caller) {
    CopyShape shape;
    shape.source = source;
    shape.target = target;
    shape.width = bytes;
    return copy_async(caller, shape, kind, stream);
  });
}

cudaError_t memcpy_2d_async(void* target, size_t target_pitch, const void* source,
                            size_t source_pitch, size_t width, size_t height, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return call("memcpy_2d_async", kContext, [&](Caller& caller) {
    for (const auto& [pitch, which] :
         {std::pair{target_pitch, "target"}, {source_pitch, "source"}}) {
      const cudaError_t error = check_pitch(caller, pitch, width, which);
      if (error != cudaSuccess) return error;
    }
    CopyShape shape;
    shape.source = source;
    shape.target = target;
    shape.width = width;
    shape.height = height;
    shape.source_row = source_pitch;
    shape.target_row = target_pitch;
    return copy_async(caller, shape, kind, stream);
  });
}

cudaError_t memcpy_3d_async(const cudaMemcpy3DParms* given, cudaStream_t stream) {
  return call("memcpy_3d_async", kContext, [&](Caller& caller) {
    const cudaMemcpy3DParms parms = *given;
    if (parms.srcArray != nullptr || parms.dstArray != nullptr) {
      caller.state.report(ReportKind::bad_argument, "memcpy_3d_async of arrays is not simulated");
      return cudaErrorNotSupported;
    }
    struct Side {
      const cudaPitchedPtr& memory;
      const cudaPos& from;
      const char* name;
    };
    for (const Side& side :
         {Side{parms.srcPtr, parms.srcPos, "source"}, Side{parms.dstPtr, parms.dstPos, "target"}}) {
      const cudaError_t error =
          check_pitch(caller, side.memory.pitch, parms.extent.width + side.from.x, side.name);
      if (error != cudaSuccess) return error;
      if (side.memory.ysize < parms.extent.height + side.from.y) {
        caller.state.report(ReportKind::bad_argument,
                            std::string("memcpy_3d_async: ") + side.name + " slices of " +
                                std::to_string(side.memory.ysize) + " rows, of which " +
                                std::to_string(parms.extent.height + side.from.y) + " are asked");
        return cudaErrorInvalidValue;
      }
    }
    const auto first = [](const cudaPitchedPtr& memory, const cudaPos& from) {
      return static_cast<char*>(memory.ptr) + (from.z * memory.ysize + from.y) * memory.pitch +
             from.x;
    };
    CopyShape shape;
    shape.source = first(parms.srcPtr, parms.srcPos);
    shape.target = first(parms.dstPtr, parms.dstPos);
    shape.width = parms.extent.width;
    shape.height = parms.extent.height;
    shape.depth = parms.extent.depth;
    shape.source_row = parms.srcPtr.pitch;
    shape.target_row = parms.dstPtr.pitch;
    shape.source_slice = parms.srcPtr.pitch * parms.srcPtr.ysize;
    shape.target_slice = parms.dstPtr.pitch * parms.dstPtr.ysize;
    return copy_async(caller, shape, parms.kind, stream);
  });
}

cudaError_t malloc_async(void** pointer, size_t bytes, cudaStream_t handle) {
  return call("malloc_async", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    cudaError_t error;
    StreamState* stream = usable_stream(caller, handle, error);
    if (stream == nullptr) return error;
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    ContextState& context = state.contexts[static_cast<size_t>(stream->device)];
    if (bytes > state.config.device_memory_bytes ||
        context.async_bytes > state.config.device_memory_bytes - bytes) {
      return cudaErrorMemoryAllocation;
    }
    std::shared_ptr<Allocation> allocation;
    if (std::shared_ptr<Mapping> mapping = reusable(state, *stream, bytes)) {
      allocation = std::make_shared<Allocation>();
      allocation->mapping = std::move(mapping);
      allocation->bytes = bytes;
      allocation->device = stream->device;
      state.allocations[allocation->begin()] = allocation;
    } else {
      allocation = state.allocate(bytes, stream->device, false);
    }
    allocation->stream_ordered = true;
    context.async_bytes += bytes;
    size_t sum = 0;
    for (const ContextState& each : state.contexts) sum += each.async_bytes;
    state.peak_async = std::max(state.peak_async, sum);
    *pointer = reinterpret_cast<void*>(allocation->begin());
    Draft draft;
    draft.text = "allocation of " + std::to_string(bytes) + " bytes at " + hex(allocation->begin());
    if (stream->capture == nullptr) {
      allocation->born = {stream, stream->numbers + 1};
    }
    draft.accesses.push_back(state.access(ByteSet(*pointer, bytes), true, stream->device));
    submit(caller, *stream, std::move(draft));
    return cudaSuccess;
  });
}

cudaError_t free_async(void* pointer, cudaStream_t handle) {
  return call("free_async", kContext | kUnsafe, [&](Caller& caller) {
    State& state = caller.state;
    cudaError_t error;
    StreamState* stream = usable_stream(caller, handle, error);
    if (stream == nullptr) return error;
    if (pointer == nullptr) return cudaSuccess;
    const auto found = state.allocations.find(reinterpret_cast<uintptr_t>(pointer));
    if (found == state.allocations.end() || found->second->managed) {
      state.report(ReportKind::bad_argument, "free_async of what is no allocation");
      return cudaErrorInvalidValue;
    }
    const std::shared_ptr<Allocation> allocation = found->second;
    if (allocation->freed) {
      state.report(ReportKind::use_after_destroy,
                   "second free_async of " + hex(allocation->begin()));
      return cudaErrorInvalidValue;
    }
    Draft draft;
    draft.text = "free of " + hex(allocation->begin());
    draft.accesses.push_back(
        state.access(ByteSet(pointer, allocation->bytes), true, stream->device));
    draft.releases = true;
    draft.poisons = false;
    draft.run = [mapping = allocation->mapping] { mapping->discard(); };
    if (allocation->stream_ordered) {
      state.contexts[static_cast<size_t>(allocation->device)].async_bytes -= allocation->bytes;
    }
    allocation->freed = true;
    allocation->ended = {stream, stream->numbers + 1};
    state.retire(allocation->begin());
    submit(caller, *stream, std::move(draft));
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
    if (bytes > state.config.max_registration_bytes) {
      state.report(ReportKind::bad_argument,
                   "registration of " + std::to_string(bytes) + " bytes in one piece");
      return cudaErrorInvalidValue;
    }
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
    if (found == state.registrations.end()) {
      state.report(ReportKind::bad_argument, "host_unregister of what is not registered");
      return cudaErrorHostMemoryNotRegistered;
    }
    state.wait_for_running(caller.lock);
    state.release(found->second.begin, found->second.end(), "host_unregister");
    state.registrations.erase(found);
    return cudaSuccess;
  });
}

}  // namespace dlbridge::cuda_sim::functions
