// SPDX-License-Identifier: Apache-2.0
// What is not ordered, and sources that changed.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace dlbridge::cuda_sim {
namespace {

uint64_t hash_of(const ByteSet& bytes, uintptr_t alias) {
  uint64_t hash = 0x9E3779B97F4A7C15u;
  const auto mix = [&](uint64_t word) {
    hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
  };
  bytes.each_run([&](uintptr_t at, size_t count) {
    const auto* data = reinterpret_cast<const unsigned char*>(at + alias);
    for (; count >= sizeof(uint64_t); count -= sizeof(uint64_t), data += sizeof(uint64_t)) {
      uint64_t word;
      std::memcpy(&word, data, sizeof word);
      mix(word);
    }
    for (; count > 0; --count, ++data) mix(*data);
  });
  return hash;
}

const Access* conflict(const Operation& operation, const ByteSet& bytes, bool write) {
  for (const Access& access : operation.accesses) {
    if ((access.write || write) && access.bytes.overlaps(bytes)) return &access;
  }
  return nullptr;
}

std::string bytes_of(const ByteSet& bytes) { return hex(bytes.begin()) + ".." + hex(bytes.end()); }

}  // namespace

void State::check_races(const OperationPtr& operation) {
  for (const OperationPtr& earlier : unobserved) {
    if (operation->clock.covers(earlier->stream->actor, earlier->number)) continue;
    for (const Access& access : operation->accesses) {
      const Access* other = conflict(*earlier, access.bytes, access.write);
      if (other == nullptr) continue;
      const ReportKind kind =
          operation->releases ? ReportKind::freed_while_pending : ReportKind::race;
      report(kind, operation->text + " and " + earlier->text + " are not ordered; the one " +
                       (access.write ? "writes " : "reads ") + bytes_of(access.bytes) +
                       ", the other " + (other->write ? "writes " : "reads ") +
                       bytes_of(other->bytes));
      break;
    }
  }
}

void State::host_access(const ByteSet& bytes, bool write, const std::string& what,
                        ReportKind kind) {
  for (const OperationPtr& earlier : unobserved) {
    const Access* other = conflict(*earlier, bytes, write);
    if (other == nullptr) continue;
    report(kind, what + " of " + bytes_of(bytes) + " by the host, which has not waited for " +
                     earlier->text + ", which " + (other->write ? "writes " : "reads ") +
                     bytes_of(other->bytes));
  }
}

void State::hash_sources(Operation& operation) {
  for (size_t i = 0; i < operation.accesses.size(); ++i) {
    const Access& access = operation.accesses[i];
    if (access.write || !access.place.on_host()) continue;
    const bool will_change = std::any_of(pending.begin(), pending.end(), [&](const auto& item) {
      const auto& others = item.second->accesses;
      return std::any_of(others.begin(), others.end(), [&](const Access& other) {
        return other.write && other.bytes.overlaps(access.bytes);
      });
    });
    if (!will_change) operation.sources.push_back({i, hash_of(access.bytes, access.alias())});
  }
}

void State::check_sources(const Operation& operation) {
  for (const auto& [index, hash] : operation.sources) {
    const Access& access = operation.accesses[index];
    if (hash_of(access.bytes, access.alias()) == hash) continue;
    report(
        ReportKind::host_source_changed,
        bytes_of(access.bytes) + " was written between the call and the run of " + operation.text);
  }
}

void State::host_knows(const Operation& operation) {
  host.join(operation.clock);
  std::erase_if(unobserved, [&](const OperationPtr& earlier) {
    return host.covers(earlier->stream->actor, earlier->number);
  });
}

void State::poison(const Operation& operation) {
  // Filling all of a huge fresh block would only make its pages exist.
  constexpr size_t kEnough = size_t{64} << 20;
  if (operation.cancelled) return;
  for (const Access& access : operation.accesses) {
    if (!access.write) continue;
    const auto& allocation = access.place.allocation;
    const bool fresh = allocation != nullptr && allocation->born.stream == operation.stream &&
                       allocation->born.number == operation.number;
    access.bytes.each_run([&](uintptr_t at, size_t count) {
      std::memset(reinterpret_cast<void*>(at + access.alias()), config.poison,
                  fresh ? std::min(count, kEnough) : count);
    });
  }
}

}  // namespace dlbridge::cuda_sim
