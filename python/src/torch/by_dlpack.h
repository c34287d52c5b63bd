// Torch reached through DLPack alone, without its headers: one binary for every torch. Two tiers
// that differ in how a tensor is described, lent and made:
//
//   exchange   torch's DLPack exchange table: C functions, no capsules (torch >= 2.10)
//   protocol   capsules, and attributes read in Python
//
// Both refuse what the direct tier refuses (dlbridge/torch_common/dispatch_keys.h is shared with
// it). What they cannot keep is written in docs/tiers.md.
#pragma once

#include <Python.h>

namespace dlbridge::python {

/// Registers the adapter of one tier ("exchange" or "protocol") as torch's. Requires: torch is
/// imported. Null with a Python exception set where torch lacks what the tier needs; nothing is
/// registered then.
PyObject* register_torch_by_dlpack(PyObject* module, PyObject* tier) noexcept;

}  // namespace dlbridge::python
