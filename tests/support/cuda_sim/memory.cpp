// SPDX-License-Identifier: Apache-2.0
// Device memory and registrations, what memory an address belongs to, and what the table says of
// them.
#include <sys/mman.h>
#include <unistd.h>

#include <new>

#include "call.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr size_t kPage = 4096;

uintptr_t map(size_t bytes, int protection, int file) {
  void* at = mmap(nullptr, bytes, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  return reinterpret_cast<uintptr_t>(at);
}

}  // namespace

Mapping::Mapping(size_t bytes, bool host_accessible) : bytes_((bytes / kPage + 1) * kPage) {
  const int file = memfd_create("cuda_sim", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes_)) != 0) throw std::bad_alloc();
  alias_ = map(bytes_, PROT_READ | PROT_WRITE, file);
  begin_ = host_accessible ? alias_ : map(bytes_, PROT_NONE, file);
  close(file);
}

Mapping::~Mapping() {
  munmap(reinterpret_cast<void*>(alias_), bytes_);
  if (begin_ != alias_) munmap(reinterpret_cast<void*>(begin_), bytes_);
}

void Mapping::discard() { madvise(reinterpret_cast<void*>(alias_), bytes_, MADV_REMOVE); }

std::shared_ptr<Allocation> State::allocate(size_t bytes, int device, bool managed,
                                            std::shared_ptr<Mapping> mapping) {
  auto allocation = std::make_shared<Allocation>();
  allocation->mapping =
      mapping != nullptr ? std::move(mapping) : std::make_shared<Mapping>(bytes, managed);
  allocation->bytes = bytes;
  allocation->device = device;
  allocation->managed = managed;
  allocations[allocation->begin()] = allocation;
  return allocation;
}

size_t State::registered_bytes() const {
  size_t sum = 0;
  for (const auto& [begin, registration] : registrations) sum += registration.bytes;
  return sum;
}

Place State::place_of(uintptr_t begin, uintptr_t end, int device) {
  const auto broken = [&](const std::string& why, ReportKind report = ReportKind::bad_argument) {
    return Place{Place::none, nullptr, -2, hex(begin) + ".." + hex(end) + why, report};
  };
  const auto after = allocations.upper_bound(begin);
  if (after != allocations.begin()) {
    const auto& found = std::prev(after)->second;
    if (begin < found->begin() + found->mapping->bytes()) {
      if (found->freed) return broken(" lies in freed memory", ReportKind::use_after_destroy);
      if (end > found->end())
        return broken(" reaches past its allocation, which ends at " + hex(found->end()));
      return {found->managed ? Place::managed : Place::device, found, found->device, "", {}};
    }
  }
  if (after != allocations.end() && after->first < end)
    return broken(" reaches from host memory into device memory");
  const auto next = registrations.lower_bound(begin + 1);
  const Registration* found = nullptr;
  if (next != registrations.begin() && std::prev(next)->second.end() > begin)
    found = &std::prev(next)->second;
  if ((found != nullptr && found->end() < end) ||
      (next != registrations.end() && next->second.begin < end))
    return broken(" crosses the border of a registration", ReportKind::seam_crossed);
  // What is registered for one context alone is ordinary memory to the others.
  const bool pinned = found != nullptr && ((found->flags & CU_MEMHOSTREGISTER_PORTABLE) != 0 ||
                                           found->device == device);
  return pinned ? Place{Place::pinned, nullptr, found->device, "", {}} : Place{};
}

Access State::access(ByteSet bytes, bool write, int device) {
  Place place = place_of(bytes.begin(), bytes.end(), device);
  return {std::move(bytes), write, std::move(place)};
}

void State::release(uintptr_t begin, uintptr_t end, const char* how) {
  const ByteSet all(reinterpret_cast<const void*>(begin), end - begin);
  host_access(all, true, how, ReportKind::freed_while_pending);
  for (const auto& [id, operation] : pending) {
    for (const Access& access : operation->accesses) {
      if (access.bytes.overlaps(all)) operation->cancelled = true;
    }
  }
}

void State::retire(Allocation& allocation) {
  constexpr size_t kEnough = 2000;
  allocation.freed = true;
  graveyard.push_back(allocation.begin());
  if (graveyard.size() <= kEnough) return;
  const auto oldest = allocations.find(graveyard.front());
  graveyard.pop_front();
  if (oldest != allocations.end() && oldest->second->freed) allocations.erase(oldest);
}

namespace functions {
namespace {

Place place_of(Caller& caller, const void* pointer) {
  const auto at = reinterpret_cast<uintptr_t>(pointer);
  return caller.state.place_of(at, at + 1, caller.device());
}

// An allocation of the stream's order that its later work may have again.
std::shared_ptr<Mapping> reusable(State& state, const StreamState& stream, size_t bytes) {
  if (!state.config.reuse_addresses) return nullptr;
  for (const auto& [begin, allocation] : state.allocations) {
    if (allocation->freed && allocation->freed_on == &stream &&
        allocation->mapping->bytes() >= bytes)
      return allocation->mapping;
  }
  return nullptr;
}

}  // namespace

void pointer_get_attributes(Caller& caller, unsigned count, CUpointer_attribute* asked,
                            void** answers, const void* pointer) {
  const Place place = place_of(caller, pointer);
  for (unsigned i = 0; i < count; ++i) {
    int& answer = *static_cast<int*>(answers[i]);
    switch (asked[i]) {
      case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        answer = place.on_device()             ? int{CU_MEMORYTYPE_DEVICE}
                 : place.kind == Place::pinned ? int{CU_MEMORYTYPE_HOST}
                                               : 0;
        break;
      case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        answer = place.kind == Place::managed ? 1 : 0;
        break;
      case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        answer = place.of_device;
        break;
    }
  }
}

void mem_get_address_range(Caller& caller, void** begin, size_t* bytes, const void* pointer) {
  const Place place = place_of(caller, pointer);
  if (!place.on_device()) throw CUDA_ERROR_NOT_FOUND;
  *begin = reinterpret_cast<void*>(place.allocation->begin());
  *bytes = place.allocation->bytes;
}

void malloc_async(Caller& caller, void** pointer, size_t bytes, CUstream handle) {
  constexpr size_t kPoisonedBytes = size_t{64} << 20;  // all would make a huge block's pages exist
  State& state = caller.state;
  StreamState& stream = caller.usable_stream(handle);
  *pointer = nullptr;
  if (!state.config.memory_pools) throw CUDA_ERROR_NOT_SUPPORTED;
  if (bytes == 0) return;
  const size_t limit = state.config.device_memory_bytes;
  if (bytes > limit || state.async_bytes > limit - bytes) throw CUDA_ERROR_OUT_OF_MEMORY;
  const auto allocation =
      state.allocate(bytes, stream.device, false, reusable(state, stream, bytes));
  allocation->stream_ordered = true;
  state.async_bytes += bytes;
  state.peak_async = std::max(state.peak_async, state.async_bytes);
  *pointer = reinterpret_cast<void*>(allocation->begin());
  const OperationPtr birth =
      operation("allocation of " + std::to_string(bytes) + " bytes at " + hex(*pointer));
  birth->poison_bytes = kPoisonedBytes;
  birth->accesses.push_back(state.access(ByteSet(*pointer, bytes), true, stream.device));
  caller.submit(stream, birth);
}

void free_async(Caller& caller, void* pointer, CUstream handle) {
  State& state = caller.state;
  StreamState& stream = caller.usable_stream(handle);
  if (pointer == nullptr) return;
  const auto found = state.allocations.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == state.allocations.end() || found->second->managed)
    caller.refuse(ReportKind::bad_argument, "no allocation");
  const std::shared_ptr<Allocation> allocation = found->second;
  if (allocation->freed) caller.refuse(ReportKind::use_after_destroy, "a second time");
  const OperationPtr end = operation("free of " + hex(pointer));
  end->accesses.push_back(state.access(ByteSet(pointer, allocation->bytes), true, stream.device));
  end->releases = true;
  end->poison_bytes = 0;
  end->run = [mapping = allocation->mapping] { mapping->discard(); };
  if (allocation->stream_ordered) state.async_bytes -= allocation->bytes;
  allocation->freed_on = &stream;
  state.retire(*allocation);
  caller.submit(stream, end);
}

void host_register(Caller& caller, void* pointer, size_t bytes, unsigned flags) {
  State& state = caller.state;
  constexpr unsigned kKnown = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP |
                              CU_MEMHOSTREGISTER_IOMEMORY | CU_MEMHOSTREGISTER_READ_ONLY;
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  if (pointer == nullptr || bytes == 0 || (flags & ~kKnown) != 0) throw CUDA_ERROR_INVALID_VALUE;
  if (bytes > state.config.max_registration_bytes)
    caller.refuse(ReportKind::bad_argument, std::to_string(bytes) + " bytes in one piece");
  // Pages are what is registered.
  const uintptr_t last_page = (begin + bytes - 1) / kPage;
  for (const auto& [other_begin, other] : state.registrations) {
    if (other.begin / kPage <= last_page && begin / kPage <= (other.end() - 1) / kPage)
      throw CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  const size_t registered = state.registered_bytes();
  const size_t limit = state.config.max_registered_bytes_total;
  if (bytes > limit || registered > limit - bytes) throw CUDA_ERROR_OUT_OF_MEMORY;
  state.wait_for_running(caller.lock);
  state.registrations[begin] = {begin, bytes, flags, caller.device()};
  state.peak_registered = std::max(state.peak_registered, registered + bytes);
}

void host_unregister(Caller& caller, void* pointer) {
  State& state = caller.state;
  const auto found = state.registrations.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == state.registrations.end())
    caller.refuse(ReportKind::bad_argument, "memory that is not registered",
                  CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  state.wait_for_running(caller.lock);
  state.release(found->second.begin, found->second.end(), "host_unregister");
  state.registrations.erase(found);
}

}  // namespace functions
}  // namespace dlbridge::cuda_sim
