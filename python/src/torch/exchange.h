// SPDX-License-Identifier: Apache-2.0
// The torch adapter through torch's DLPack exchange table, without torch's headers: one binary for
// every torch from 2.10 on. Refuses what the direct adapter refuses (dlbridge/torch_common/ is
// shared with it). docs/tiers.md lists what it cannot keep.
#pragma once

#include "bridge/adapter.h"

namespace dlbridge::python {

/// The adapter, made at the first call. Requires: torch is imported. Throws ImportError where torch
/// lacks what it needs.
Adapter& torch_exchange_adapter();

}  // namespace dlbridge::python
