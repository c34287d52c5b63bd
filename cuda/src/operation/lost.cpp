#include "operation/lost.h"

#include <atomic>
#include <new>

namespace dlbridge::cuda {
namespace {

struct Lost {
  Deleter deleter;
  Lost* next;
};

std::atomic<Lost*> g_lost{nullptr};

}  // namespace

void lose(Deleter deleter) noexcept {
  if (!deleter) return;
  auto* entry = new (std::nothrow) Lost{deleter, g_lost.load()};
  if (entry == nullptr) return;
  while (!g_lost.compare_exchange_weak(entry->next, entry)) {
  }
}

}  // namespace dlbridge::cuda
