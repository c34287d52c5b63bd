// dlbridge.Future: a staging under way, for Python; and the functions that start one.
#pragma once

#include <nanobind/nanobind.h>

namespace dlbridge::python {

/// Adds Future, stage, _stage_batch and what concerns pinned memory to the module.
void bind_staging(nanobind::module_& module);

}  // namespace dlbridge::python
