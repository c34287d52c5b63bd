// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/staging_backend.h"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <vector>

namespace dlbridge {
namespace {

struct Registry {
  std::shared_mutex mutex;
  std::vector<StagingBackend*> backends;
};

// Leaked: conversions may still ask while the process exits.
Registry& registry() {
  static Registry* instance = new Registry;
  return *instance;
}

}  // namespace

StagingBackend::~StagingBackend() = default;

void register_staging(StagingBackend& backend) {
  std::unique_lock lock(registry().mutex);
  registry().backends.push_back(&backend);
}

void unregister_staging(StagingBackend& backend) noexcept {
  std::unique_lock lock(registry().mutex);
  std::erase(registry().backends, &backend);
}

StagingBackend* find_staging(Device from, Device to) noexcept {
  std::shared_lock lock(registry().mutex);
  const auto& backends = registry().backends;
  const auto match = std::find_if(backends.rbegin(), backends.rend(),
                                  [&](StagingBackend* t) { return t->connects(from, to); });
  return match == backends.rend() ? nullptr : *match;
}

}  // namespace dlbridge
