// SPDX-License-Identifier: Apache-2.0
// What the gpu folder adds to the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace dlbridge::python {

/// Adds Future, stage and stage_many.
void bind_futures(nanobind::module_& module);

/// Adds pinned_empty, record_stream and what the pool's functions call.
void bind_pinned(nanobind::module_& module);

}  // namespace dlbridge::python
