// Staging: what conversions do where a device= names another place, and dlbridge.stage().
//
// All need the GIL and release it while they wait. A wait that a signal's handler ends raises that
// exception; the copy goes on and gives back what it holds when it is done.
#pragma once

#include <Python.h>

#include <optional>
#include <vector>

#include "source.h"
#include "waiting.h"

namespace dlbridge::python {

/// Does what a plan says that stages: a new reference to `target`'s object, or null with a Python
/// exception set.
PyObject* convert_by_staging(Source& source, const Adapter& target, const Request& request,
                             const Plan& plan) noexcept;

/// The same into `out`, `memory` its view without an owner: a new reference to it.
PyObject* stage_into(Source& source, const Adapter& target, const Plan& plan, PyObject* out,
                     Loan& memory) noexcept;

/// A copy on one device, in fresh memory there.
PyObject* copy_on_device(Source& source, const Adapter& target) noexcept;

/// The host may read the source's memory then: waits for its stream where it is managed memory, or
/// pinned memory of another framework's; else at once. Throws Error.
void wait_for_host_access(const Source& source);

/// A staging that was started, and what its result becomes.
struct StartedStaging {
  Staging staging;
  Reference object;                 ///< the result itself, where it exists already
  const Adapter* target = nullptr;  ///< else what wraps it
};

/// Where a staging goes, and how.
struct StagingRequest {
  std::optional<DLDevice> device;
  std::optional<intptr_t> stream;
  const Adapter* target = nullptr;  ///< null: numpy on the host, torch or dlpack on a device
  PyObject* out = nullptr;          ///< borrowed
  StagingOptions options;
};

/// Starts one. Throws Error.
StartedStaging start_staging(PyObject* x, const StagingRequest& request);

/// Starts stagings of many to the host, one for each device and stream. Calls `group` with each and
/// the indices of its sources. Throws Error.
struct StartedGroup {
  Staging staging;
  std::vector<size_t> indices;
};
std::vector<StartedGroup> start_stagings(PyObject* sequence, std::optional<intptr_t> stream,
                                         const StagingOptions& options);

}  // namespace dlbridge::python
