#include "lost.h"

#include <atomic>
#include <new>

namespace dlbridge::cuda {
namespace {

struct Lost {
  Owner owner;
  Lost* next;
};

std::atomic<Lost*> g_lost{nullptr};

}  // namespace

void lose(Owner owner) noexcept {
  if (!owner) return;
  auto* entry = new (std::nothrow) Lost{owner, g_lost.load()};
  if (entry == nullptr) return;
  while (!g_lost.compare_exchange_weak(entry->next, entry)) {
  }
}

}  // namespace dlbridge::cuda
