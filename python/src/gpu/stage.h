// SPDX-License-Identifier: Apache-2.0
// What dlbridge.stage() and stage_many() start.
//
// All need the GIL and release it where they wait. Throw Error; then nothing is handed out, and
// copies that were started go on.
#pragma once

#include <Python.h>

#include <optional>
#include <vector>

#include "gpu/waiting.h"
#include "sources/source.h"

namespace dlbridge::python {

/// One tensor of a result.
struct StagedLeaf {
  Reference object;      ///< itself, where it exists already
  size_t operation = 0;  ///< what copies it
  size_t index = 0;      ///< its place among the results of that
};

/// Copies that were started, and what they become.
struct StartedCopies {
  std::vector<Staging> operations;
  std::vector<StagedLeaf> leaves;
  Reference structure;  ///< a container of placeholders for the leaves; null: one leaf alone
  const Adapter* target = nullptr;  ///< what wraps a leaf
};

/// Where a staging goes, and how.
struct StagingRequest {
  std::optional<DLDevice> device;
  std::optional<intptr_t> stream;
  const Adapter* target = nullptr;  ///< null: numpy on the host, torch or dlpack on a device
  PyObject* out = nullptr;          ///< borrowed
  StagingOptions options;
};

/// Starts one.
StartedCopies start_staging(PyObject* x, const StagingRequest& request);

/// Starts those of all tensors in `xs`, a container, a tensor or an iterable: to the host one
/// operation for each device and stream, or for each 64 MiB of it; to a device one for the small
/// ones and one for each other. Requires: device.
StartedCopies start_stagings(PyObject* xs, const StagingRequest& request, bool in_pieces);

/// The result: the leaves, or one. A new reference. Throws the first operation's Error. Waits where
/// one is not done.
Reference result_of(StartedCopies& copies);

}  // namespace dlbridge::python
