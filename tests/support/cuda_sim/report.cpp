// SPDX-License-Identifier: Apache-2.0
// Reports and the trace.
#include "state.h"

#include <cstdio>

namespace dlbridge::cuda_sim {

const char* name(ReportKind kind) {
  switch (kind) {
    case ReportKind::race:
      return "race";
    case ReportKind::host_source_changed:
      return "host_source_changed";
    case ReportKind::freed_while_pending:
      return "freed_while_pending";
    case ReportKind::seam_crossed:
      return "seam_crossed";
    case ReportKind::capture_broken:
      return "capture_broken";
    case ReportKind::context_created:
      return "context_created";
    case ReportKind::context_destroyed:
      return "context_destroyed";
    case ReportKind::wrong_context:
      return "wrong_context";
    case ReportKind::lazy_kernel_load:
      return "lazy_kernel_load";
    case ReportKind::bad_argument:
      return "bad_argument";
    case ReportKind::use_after_destroy:
      return "use_after_destroy";
    case ReportKind::interpreter_locked:
      return "interpreter_locked";
    case ReportKind::driver_locked:
      return "driver_locked";
  }
  return "?";
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

}  // namespace dlbridge::cuda_sim
