#include "dlbridge/transfer.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <vector>

namespace dlbridge {
namespace {

struct Registry {
  std::shared_mutex mutex;
  std::vector<Transfer*> transfers;
};

// Leaked: conversions may still ask while the process exits.
Registry& registry() {
  static Registry* instance = new Registry;
  return *instance;
}

}  // namespace

Transfer::~Transfer() = default;

void register_transfer(Transfer& transfer) {
  std::unique_lock lock(registry().mutex);
  registry().transfers.push_back(&transfer);
}

void unregister_transfer(Transfer& transfer) noexcept {
  std::unique_lock lock(registry().mutex);
  std::erase(registry().transfers, &transfer);
}

Transfer* find_transfer(Device from, Device to) noexcept {
  std::shared_lock lock(registry().mutex);
  const auto& transfers = registry().transfers;
  const auto match = std::find_if(transfers.rbegin(), transfers.rend(),
                                  [&](Transfer* t) { return t->connects(from, to); });
  return match == transfers.rend() ? nullptr : *match;
}

}  // namespace dlbridge
