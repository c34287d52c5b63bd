// SPDX-License-Identifier: Apache-2.0
// Device memory, registrations, and what memory an address belongs to.
#include <sys/mman.h>
#include <unistd.h>

#include <system_error>

#include "state.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr size_t kPage = 4096;

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

uintptr_t map(size_t bytes, int protection, int file) {
  void* at = mmap(nullptr, bytes, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
  if (at == MAP_FAILED) fail("mmap");
  return reinterpret_cast<uintptr_t>(at);
}

}  // namespace

Mapping::Mapping(size_t bytes, bool host_accessible)
    : bytes_(whole_pages(std::max<size_t>(bytes, 1))) {
  const int file = memfd_create("cuda_sim", MFD_CLOEXEC);
  if (file < 0) fail("memfd_create");
  if (ftruncate(file, static_cast<off_t>(bytes_)) != 0) fail("ftruncate");
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

size_t State::bytes_registered() const {
  size_t sum = 0;
  for (const auto& [begin, registration] : registrations) sum += registration.bytes;
  return sum;
}

size_t State::bytes_allocated() const {
  size_t sum = 0;
  for (const auto& [device, context] : contexts) sum += context.async_bytes;
  return sum;
}

Place State::place_of(uintptr_t begin, uintptr_t end, int device) {
  Place place;
  const std::string range = hex(begin) + ".." + hex(end);
  auto after = allocations.upper_bound(begin);
  if (after != allocations.begin()) {
    const auto& candidate = std::prev(after)->second;
    const uintptr_t mapped = candidate->begin() + candidate->mapping->bytes();
    if (begin < mapped) {
      place.allocation = candidate;
      place.kind = candidate->managed ? Place::managed : Place::device;
      if (candidate->freed) {
        place.kind = Place::freed;
        place.report = ReportKind::use_after_destroy;
        place.trouble = range + " lies in freed memory";
      } else if (end > candidate->end()) {
        place.kind = Place::broken;
        place.trouble =
            range + " reaches past its allocation, which ends at " + hex(candidate->end());
      }
      return place;
    }
  }
  if (after != allocations.end() && after->first < end) {
    place.kind = Place::broken;
    place.trouble = range + " reaches from host memory into device memory";
    return place;
  }
  const Registration* first = nullptr;
  auto next = registrations.lower_bound(begin + 1);
  if (next != registrations.begin() && std::prev(next)->second.end() > begin) {
    first = &std::prev(next)->second;
  }
  const bool reaches_next = next != registrations.end() && next->second.begin < end;
  if ((first != nullptr && first->end() < end) || reaches_next) {
    place.kind = Place::broken;
    place.report = ReportKind::seam_crossed;
    place.trouble = range + " crosses the border of a registration";
    return place;
  }
  // What is registered for one context alone is ordinary memory to the others.
  if (first != nullptr &&
      ((first->flags & CU_MEMHOSTREGISTER_PORTABLE) != 0 || first->device == device)) {
    place.kind = Place::pinned;
    place.registration = first;
  }
  return place;
}

Access State::access(ByteSet bytes, bool write, int device) {
  Access result;
  result.place = place_of(bytes.begin(), bytes.end(), device);
  result.bytes = std::move(bytes);
  result.write = write;
  return result;
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

void State::bury(Allocation& allocation) {
  allocation.freed = true;
  allocation.mapping->discard();
  retire(allocation.begin());
}

void State::retire(uintptr_t begin) {
  constexpr size_t kEnough = 2000;
  graveyard.push_back(begin);
  if (graveyard.size() <= kEnough) return;
  const auto oldest = allocations.find(graveyard.front());
  graveyard.pop_front();
  if (oldest != allocations.end() && oldest->second->freed) allocations.erase(oldest);
}

}  // namespace dlbridge::cuda_sim
