// SPDX-License-Identifier: Apache-2.0
// The limit of the pinned pool until set_pinned_limit() is called.
#pragma once

#include <cstddef>
#include <filesystem>

namespace dlbridge::cuda::pinned {

/// An eighth of the memory that this process may use, divided by the local ranks of its job, and at
/// most 16 GiB. The memory is the least of the machine's and of the limits of the process's control
/// groups (v2 and v1) and of the groups above them.
///
/// `root` is "/"; `variable` looks a variable of the environment up, as getenv does. RLIMIT_MEMLOCK
/// is left out: NVIDIA's kernel module pins pages without counting them, and containers often set
/// it to a few MiB. Where a system does refuse, the pool lowers its limit.
size_t default_limit(const std::filesystem::path& root, const char* (*variable)(const char* name));

}  // namespace dlbridge::cuda::pinned
