// SPDX-License-Identifier: Apache-2.0
// What a simulator saw: reports, counts, what is left.
#include <algorithm>

#include "state.h"

namespace dlbridge::cuda_sim {

std::vector<Report> Simulator::reports() const {
  const Lock lock(state_mutex());
  return state_->reports;
}

size_t Simulator::reports_of(ReportKind kind) const {
  const Lock lock(state_mutex());
  return static_cast<size_t>(std::count_if(state_->reports.begin(), state_->reports.end(),
                                           [&](const Report& each) { return each.kind == kind; }));
}

std::string Simulator::complaint() const {
  const std::vector<Report> all = reports();
  if (all.empty()) return "";
  std::string text;
  for (const Report& each : all) text += std::string(name(each.kind)) + ": " + each.text + "\n";
  return text + "Trace:\n" + trace();
}

void Simulator::clear_reports() {
  const Lock lock(state_mutex());
  state_->reports.clear();
}

uint64_t Simulator::calls(const std::string& function) const {
  const Lock lock(state_mutex());
  const auto found = state_->counts.find(function);
  return found == state_->counts.end() ? 0 : found->second;
}

uint64_t Simulator::total_calls() const {
  const Lock lock(state_mutex());
  return state_->total;
}

std::string Simulator::trace() const {
  const Lock lock(state_mutex());
  std::string text;
  for (const std::string& line : state_->lines) text += line + "\n";
  return text;
}

std::vector<unsigned> Simulator::created_stream_flags() const {
  const Lock lock(state_mutex());
  std::vector<unsigned> flags;
  for (const StreamState& stream : state_->streams) {
    if (stream.counted) flags.push_back(stream.flags);
  }
  return flags;
}

std::vector<unsigned> Simulator::created_event_flags() const {
  const Lock lock(state_mutex());
  std::vector<unsigned> flags;
  for (const EventState& event : state_->events) flags.push_back(event.flags);
  return flags;
}

uint64_t Simulator::spinning_waits() const {
  const Lock lock(state_mutex());
  return state_->spinning;
}

std::vector<cudaStream_t> Simulator::used_streams() const {
  const Lock lock(state_mutex());
  std::vector<cudaStream_t> used;
  for (const StreamState& stream : state_->streams) {
    if (stream.used_through_table) used.push_back(stream.handle);
  }
  return used;
}

Leaks Simulator::leaks() const {
  const Lock lock(state_mutex());
  Leaks left;
  for (const auto& [begin, allocation] : state_->allocations) {
    if (allocation->freed) continue;
    ++(allocation->stream_ordered ? left.async_allocations : left.test_allocations);
  }
  for (const StreamState& stream : state_->streams) {
    left.streams += stream.counted && !stream.destroyed && !stream.lost;
  }
  for (const EventState& event : state_->events) left.events += !event.destroyed && !event.lost;
  left.registrations = state_->registrations.size();
  for (const ContextState& context : state_->contexts) {
    left.retained_contexts += static_cast<size_t>(context.retained);
  }
  return left;
}

size_t Simulator::registered_bytes() const {
  const Lock lock(state_mutex());
  return state_->bytes_registered();
}

size_t Simulator::peak_registered_bytes() const {
  const Lock lock(state_mutex());
  return state_->peak_registered;
}

size_t Simulator::async_bytes() const {
  const Lock lock(state_mutex());
  size_t sum = 0;
  for (const ContextState& context : state_->contexts) sum += context.async_bytes;
  return sum;
}

size_t Simulator::peak_async_bytes() const {
  const Lock lock(state_mutex());
  return state_->peak_async;
}

void Simulator::reset_peaks() {
  const size_t async = async_bytes();
  const Lock lock(state_mutex());
  state_->peak_async = async;
  state_->peak_registered = state_->bytes_registered();
}

}  // namespace dlbridge::cuda_sim
