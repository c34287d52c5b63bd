// SPDX-License-Identifier: Apache-2.0
// What concerns the process: forks, and threads that run beside the program's own.
#pragma once

#include <functional>
#include <thread>

namespace dlbridge::cuda {

/// The number of forks between this process and the one that called this first. What was made under
/// another number belongs to a parent: its threads do not exist here, and its locks may be held.
unsigned forks() noexcept;

/// Starts a thread that receives no signals, so that the program's handlers run on the program's
/// own threads. Throws std::system_error, std::bad_alloc.
std::thread start_thread(std::function<void()> body);

}  // namespace dlbridge::cuda
