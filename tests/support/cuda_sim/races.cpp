// SPDX-License-Identifier: Apache-2.0
// What is not ordered, and sources that changed.
#include <cstring>

#include "state.h"

namespace dlbridge::cuda_sim {
namespace {

std::string content_of(const Access& access) {
  std::string content;
  for (const ByteSet::Run& run : access.bytes.runs())
    content.append(reinterpret_cast<const char*>(run.begin + access.alias()), run.bytes());
  return content;
}

const Access* conflict(const Operation& operation, const ByteSet& bytes, bool write) {
  for (const Access& access : operation.accesses) {
    if ((access.write || write) && access.bytes.overlaps(bytes)) return &access;
  }
  return nullptr;
}

std::string bytes_of(const ByteSet& bytes) { return hex(bytes.begin()) + ".." + hex(bytes.end()); }

std::string text_of(const Access& access) {
  return (access.write ? "writes " : "reads ") + bytes_of(access.bytes);
}

}  // namespace

void State::check_races(const Operation& operation) {
  const auto kind = operation.releases ? ReportKind::freed_while_pending : ReportKind::race;
  for (const OperationPtr& earlier : unobserved) {
    if (operation.clock.at(earlier->stream->actor) >= earlier->number) continue;
    for (const Access& access : operation.accesses) {
      const Access* other = conflict(*earlier, access.bytes, access.write);
      if (other == nullptr) continue;
      report(kind, operation.text + " and " + earlier->text + " are not ordered; the one " +
                       text_of(access) + ", the other " + text_of(*other));
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
                     earlier->text + ", which " + text_of(*other));
  }
}

void State::keep_sources(Operation& operation) {
  for (size_t i = 0; i < operation.accesses.size(); ++i) {
    const Access& access = operation.accesses[i];
    if (access.write || !access.place.on_host()) continue;
    const bool will_change = std::any_of(pending.begin(), pending.end(), [&](const auto& item) {
      return conflict(*item.second, access.bytes, false) != nullptr;
    });
    if (!will_change) operation.sources[i] = content_of(access);
  }
}

void State::check_sources(const Operation& operation) {
  for (const auto& [index, content] : operation.sources) {
    const Access& access = operation.accesses[index];
    if (content_of(access) != content)
      report(ReportKind::host_source_changed, bytes_of(access.bytes) +
                                                  " was written between the call and the run of " +
                                                  operation.text);
  }
}

void State::host_knows(const Operation& operation) {
  host.join(operation.clock);
  std::erase_if(unobserved, [&](const OperationPtr& earlier) {
    return host.at(earlier->stream->actor) >= earlier->number;
  });
}

void State::poison(const Operation& operation) {
  for (const Access& access : operation.accesses) {
    if (!access.write) continue;
    for (const ByteSet::Run& run : access.bytes.runs())
      std::memset(reinterpret_cast<void*>(run.begin + access.alias()), kPoison,
                  std::min(run.bytes(), operation.poison_bytes));
  }
}

}  // namespace dlbridge::cuda_sim
