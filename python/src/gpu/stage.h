// SPDX-License-Identifier: Apache-2.0
// What dlbridge.stage() and stage_many() start.
//
// All need the GIL and release it where they wait.
#pragma once

#include <Python.h>

#include <optional>
#include <vector>

#include "gpu/waiting.h"
#include "sources/source.h"

namespace dlbridge::python {

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

/// One operation, and the indices of the sources that it copies.
struct StartedGroup {
  Staging staging;
  std::vector<size_t> indices;
};

/// Starts stagings of many to the host, one for each device and stream. Throws Error.
std::vector<StartedGroup> start_stagings(PyObject* sequence, std::optional<intptr_t> stream,
                                         const StagingOptions& options);

}  // namespace dlbridge::python
