// SPDX-License-Identifier: Apache-2.0
// Reports, the trace, what a simulator saw.
#include <algorithm>
#include <cstdio>
#include <iterator>

#include "simulator.h"

namespace dlbridge::cuda_sim {

const char* name(ReportKind kind) {
  constexpr const char* kNames[] = {"race",
                                    "host_source_changed",
                                    "freed_while_pending",
                                    "seam_crossed",
                                    "capture_broken",
                                    "context_created",
                                    "context_destroyed",
                                    "wrong_context",
                                    "lazy_kernel_load",
                                    "bad_argument",
                                    "use_after_destroy",
                                    "interpreter_locked",
                                    "driver_locked"};
  static_assert(std::size(kNames) == static_cast<size_t>(ReportKind::driver_locked) + 1);
  return kNames[static_cast<size_t>(kind)];
}

std::string hex(uintptr_t address) {
  char text[20];
  std::snprintf(text, sizeof text, "0x%zx", static_cast<size_t>(address));
  return text;
}

void State::report(ReportKind kind, std::string text) {
  constexpr size_t kEnough = 1000;
  note(std::string("REPORT ") + name(kind) + ": " + text);
  if (reports.size() < kEnough) reports.push_back({kind, std::move(text)});
}

void State::note(std::string line) {
  constexpr size_t kEnough = 4000;
  lines.push_back(std::move(line));
  if (lines.size() > kEnough) lines.pop_front();
}

std::string Leaks::text() const {
  return std::to_string(async_allocations) + " async allocations, " + std::to_string(streams) +
         " streams, " + std::to_string(events) + " events, " + std::to_string(registrations) +
         " registrations, " + std::to_string(retained_contexts) + " retained contexts, " +
         std::to_string(test_allocations) + " test allocations";
}

size_t Simulator::reports_of(ReportKind kind) const {
  const Locked state = locked();
  return static_cast<size_t>(std::count_if(state->reports.begin(), state->reports.end(),
                                           [&](const Report& each) { return each.kind == kind; }));
}

std::string Simulator::complaint() const {
  const std::vector<Report> all = reports();
  if (all.empty()) return "";
  std::string text;
  for (const Report& each : all) text += std::string(name(each.kind)) + ": " + each.text + "\n";
  return text + "Trace:\n" + trace();
}

uint64_t Simulator::calls(const std::string& function) const {
  const Locked state = locked();
  const auto found = state->counts.find(function);
  return found == state->counts.end() ? 0 : found->second;
}

std::string Simulator::trace() const {
  const Locked state = locked();
  std::string text;
  for (const std::string& line : state->lines) text += line + "\n";
  return text;
}

std::vector<unsigned> Simulator::created_stream_flags() const {
  const Locked state = locked();
  std::vector<unsigned> flags;
  for (const StreamState& stream : state->streams) {
    if (stream.counted) flags.push_back(stream.flags);
  }
  return flags;
}

std::vector<unsigned> Simulator::created_event_flags() const {
  const Locked state = locked();
  std::vector<unsigned> flags;
  for (const EventState& event : state->events) flags.push_back(event.flags);
  return flags;
}

std::vector<CUstream> Simulator::used_streams() const {
  const Locked state = locked();
  std::vector<CUstream> used;
  for (const StreamState& stream : state->streams) {
    if (stream.used_through_table) used.push_back(stream.handle);
  }
  return used;
}

Leaks Simulator::leaks() const {
  const Locked state = locked();
  Leaks left;
  for (const auto& [begin, allocation] : state->allocations) {
    if (allocation->freed) continue;
    ++(allocation->stream_ordered ? left.async_allocations : left.test_allocations);
  }
  for (const StreamState& stream : state->streams) {
    left.streams += stream.counted && !stream.destroyed && !stream.lost;
  }
  for (const EventState& event : state->events) left.events += !event.destroyed && !event.lost;
  left.registrations = state->registrations.size();
  for (const auto& [device, context] : state->contexts) {
    left.retained_contexts += static_cast<size_t>(context.retained);
  }
  return left;
}

void Simulator::reset_peaks() {
  const Locked state = locked();
  state->peak_async = state->bytes_allocated();
  state->peak_registered = state->bytes_registered();
}

}  // namespace dlbridge::cuda_sim
