// SPDX-License-Identifier: Apache-2.0
#include "operation/leak.h"

#include <atomic>
#include <new>

namespace dlbridge::cuda {
namespace {

struct Leaked {
  Deleter deleter;
  Leaked* next;
};

std::atomic<Leaked*> g_leaked{nullptr};

}  // namespace

void leak(Deleter deleter) noexcept {
  if (!deleter) return;
  auto* entry = new (std::nothrow) Leaked{deleter, g_leaked.load()};
  if (entry == nullptr) return;
  while (!g_leaked.compare_exchange_weak(entry->next, entry)) {
  }
}

}  // namespace dlbridge::cuda
