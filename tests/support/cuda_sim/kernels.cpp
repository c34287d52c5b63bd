// SPDX-License-Identifier: Apache-2.0
// The pack kernels: what they touch, and their own bodies run on the host.
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <numeric>
#include <span>

#include "call.h"
#include "pack_on_host.h"

namespace dlbridge::cuda_sim::functions {
namespace {

using cuda::GatherParams;
using cuda::KernelId;
using cuda::PackParams;

ByteSet bytes_of(const void* first, const PackParams& params, const int64_t* stride_bytes) {
  std::vector<int32_t> order(static_cast<size_t>(params.rank));
  std::iota(order.begin(), order.end(), 0);
  // The innermost first, whatever the order of the dimensions is: then neighbours join.
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return std::abs(stride_bytes[a]) < std::abs(stride_bytes[b]);
  });
  ByteSet bytes(first, static_cast<size_t>(params.element_bytes));
  for (const int32_t dimension : order) {
    bytes.repeat(params.extent[dimension], stride_bytes[dimension]);
  }
  return bytes;
}

std::string trouble_with(const Place& place, int device) {
  if (!place.trouble.empty()) return place.trouble;
  if (place.kind == Place::pageable) return "pageable memory";
  if (place.kind == Place::device && place.allocation->device != device) {
    return "memory of another device";
  }
  return "";
}

CUresult check_params(const PackParams& params) {
  const int32_t size = params.element_bytes;
  const bool known_size = size > 0 && size <= 16 && (size & (size - 1)) == 0;
  if (!known_size || params.rank < 0 || params.rank > PackParams::kMaxRank) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  int64_t count = 1;
  for (int32_t i = 0; i < params.rank; ++i) count *= params.extent[i];
  if (count != params.count) return CUDA_ERROR_INVALID_VALUE;
  return count > 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;  // an empty grid
}

// The stream that a kernel is launched on.
StreamState& stream_of_kernel(Caller& caller, CUstream handle, KernelId kernel) {
  StreamState& stream = caller.usable_stream(handle);
  if (stream.device != caller.device())
    caller.refuse(ReportKind::wrong_context,
                  "on the " + stream.name() + " while cuda:" + std::to_string(caller.device()) +
                      " is current",
                  CUDA_ERROR_INVALID_HANDLE);
  if (caller.context().loaded.insert(kernel).second) {
    caller.state.report(ReportKind::lazy_kernel_load,
                        "kernel " + std::to_string(static_cast<int>(kernel)) +
                            " was not preloaded on cuda:" + std::to_string(stream.device));
  }
  return stream;
}

// Declares what a kernel reads and writes; sets the addresses to those that the host may use.
template <class From, class To>
void add_accesses(const Caller& caller, Operation& kernel, ByteSet reads, From*& source,
                  ByteSet writes, To*& target, int device) {
  const auto add = [&](ByteSet bytes, auto*& address, bool write) {
    kernel.accesses.push_back(caller.state.access(std::move(bytes), write, device));
    address = reinterpret_cast<std::remove_reference_t<decltype(address)>>(
        reinterpret_cast<uintptr_t>(address) + kernel.accesses.back().alias());
  };
  add(std::move(reads), source, false);
  add(std::move(writes), target, true);
}

// Enqueues a kernel. It kills the device where it reaches memory that is not there.
CUresult submit_kernel(Caller& caller, StreamState& stream, const OperationPtr& kernel) {
  State& state = caller.state;
  const int device = stream.device;
  for (size_t i = 0; i < kernel->accesses.size(); ++i) {
    const Access& access = kernel->accesses[i];
    const std::string trouble = trouble_with(access.place, device);
    if (!trouble.empty()) {
      state.report(access.place.report, "launch: " + trouble);
      kernel->accesses.clear();
      kernel->run = [&state, device] { state.kill(device, CUDA_ERROR_ILLEGAL_ADDRESS); };
      break;
    }
    if (access.write && kernel->accesses[i - 1].bytes.overlaps(access.bytes))
      state.report(ReportKind::bad_argument, "launch: source and target overlap");
  }
  kernel->run = [&state, run = std::move(kernel->run), text = kernel->text, device] {
    try {
      run();
    } catch (const std::exception& thrown) {
      state.report(ReportKind::bad_argument, text + ": " + thrown.what());
      state.kill(device, CUDA_ERROR_MISALIGNED_ADDRESS);
    }
  };
  caller.submit(stream, kernel);
  return CUDA_SUCCESS;
}

}  // namespace

CUresult launch(KernelId kernel, const PackParams& given, CUstream handle) {
  return call("launch", kContext, [&](Caller& caller) {
    StreamState& stream = stream_of_kernel(caller, handle, kernel);
    PackParams mine = given;
    if (const CUresult error = check_params(mine); error != CUDA_SUCCESS)
      caller.refuse(ReportKind::bad_argument, "these parameters are not of one copy", error);
    const OperationPtr work = operation("kernel " + std::to_string(static_cast<int>(kernel)) +
                                        " from " + hex(reinterpret_cast<uintptr_t>(mine.source)) +
                                        " to " + hex(reinterpret_cast<uintptr_t>(mine.target)));
    add_accesses(caller, *work, bytes_of(mine.source, mine, mine.source_stride_bytes), mine.source,
                 bytes_of(mine.target, mine, mine.target_stride_bytes), mine.target, stream.device);
    work->run = [kernel, mine] { cuda::run_on_host(kernel, mine); };
    return submit_kernel(caller, stream, work);
  });
}

CUresult gather(const GatherParams& given, CUstream handle) {
  return call("gather", kContext, [&](Caller& caller) {
    StreamState& stream = stream_of_kernel(caller, handle, KernelId::gather);
    GatherParams mine = given;
    if (mine.count <= 0 || mine.count > GatherParams::kMaxRuns)
      caller.refuse(ReportKind::bad_argument,
                    std::to_string(mine.count) + " runs are not of one grid",
                    CUDA_ERROR_INVALID_VALUE);
    const OperationPtr work = operation("gather of " + std::to_string(mine.count) + " runs");
    for (GatherParams::Run& run : std::span(mine.runs, static_cast<size_t>(mine.count))) {
      const auto bytes = static_cast<size_t>(run.bytes);
      add_accesses(caller, *work, ByteSet(run.source, bytes), run.source,
                   ByteSet(run.target, bytes), run.target, stream.device);
    }
    work->run = [mine] { cuda::run_on_host(mine); };
    return submit_kernel(caller, stream, work);
  });
}

CUresult preload_kernels() {
  return call("preload_kernels", kContext | kUnsafe, [](Caller& caller) {
    caller.context().loaded = {KernelId::strided, KernelId::transpose, KernelId::gather};
    return CUDA_SUCCESS;
  });
}

}  // namespace dlbridge::cuda_sim::functions
