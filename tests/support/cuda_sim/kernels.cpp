// SPDX-License-Identifier: Apache-2.0
// The pack kernels: what they touch, and their own bodies run on the host.
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
  for (const int32_t dimension : order)
    bytes.repeat(params.extent[dimension], stride_bytes[dimension]);
  return bytes;
}

bool is_one_copy(const PackParams& params) {
  if (params.rank < 0 || params.rank > PackParams::kMaxRank) return false;
  const std::span extents(params.extent, static_cast<size_t>(params.rank));
  return params.count > 0 && params.count == std::accumulate(extents.begin(), extents.end(),
                                                             int64_t{1}, std::multiplies<>());
}

// The stream that a kernel is launched on.
StreamState& stream_of_kernel(Caller& caller, CUstream handle, KernelId kernel) {
  StreamState& stream = caller.usable_stream(handle);
  if (stream.device != caller.device())
    caller.refuse(ReportKind::wrong_context, "on the " + stream.name() + ", which is not current",
                  CUDA_ERROR_INVALID_HANDLE);
  if (caller.device_state().loaded.insert(kernel).second)
    caller.state.report(ReportKind::lazy_kernel_load,
                        "a kernel was not preloaded on cuda:" + std::to_string(stream.device));
  return stream;
}

// Declares what a kernel reads or writes; sets the address to that which the host may use.
template <class T>
void add_access(Caller& caller, Operation& kernel, ByteSet bytes, bool write, T*& address) {
  kernel.accesses.push_back(caller.state.access(std::move(bytes), write, caller.device()));
  address =
      reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(address) + kernel.accesses.back().alias());
}

// Enqueues a kernel, whose accesses are pairs of a source and a target. It kills the device where
// it reaches memory that is not there, or where `body` throws.
void submit_kernel(Caller& caller, StreamState& stream, const OperationPtr& kernel,
                   std::function<void()> body) {
  State& state = caller.state;
  const int device = stream.device;
  kernel->run = [&state, body = std::move(body), text = kernel->text, device] {
    try {
      body();
    } catch (const std::exception& thrown) {
      state.report(ReportKind::bad_argument, text + ": " + thrown.what());
      state.kill(device, CUDA_ERROR_MISALIGNED_ADDRESS);
    }
  };
  for (size_t i = 0; i < kernel->accesses.size(); ++i) {
    const Access& access = kernel->accesses[i];
    const Place& place = access.place;
    const bool elsewhere = place.kind == Place::device && place.of_device != device;
    if (!place.trouble.empty() || place.kind == Place::pageable || elsewhere) {
      state.report(place.report,
                   kernel->text + " reaches memory that is not there. " + place.trouble);
      kernel->accesses.clear();
      kernel->run = [&state, device] { state.kill(device, CUDA_ERROR_ILLEGAL_ADDRESS); };
      break;
    }
    if (access.write && kernel->accesses[i - 1].bytes.overlaps(access.bytes))
      state.report(ReportKind::bad_argument, kernel->text + ": source and target overlap");
  }
  caller.submit(stream, kernel);
}

}  // namespace

void launch(Caller& caller, KernelId kernel, const PackParams& given, CUstream handle) {
  StreamState& stream = stream_of_kernel(caller, handle, kernel);
  PackParams mine = given;
  if (!is_one_copy(mine))
    caller.refuse(ReportKind::bad_argument, "these parameters are not of one copy");
  const OperationPtr work = operation("kernel " + std::to_string(static_cast<int>(kernel)) +
                                      " from " + hex(mine.source) + " to " + hex(mine.target));
  add_access(caller, *work, bytes_of(mine.source, mine, mine.source_stride_bytes), false,
             mine.source);
  add_access(caller, *work, bytes_of(mine.target, mine, mine.target_stride_bytes), true,
             mine.target);
  submit_kernel(caller, stream, work, [kernel, mine] { cuda::run_on_host(kernel, mine); });
}

void gather(Caller& caller, const GatherParams& given, CUstream handle) {
  StreamState& stream = stream_of_kernel(caller, handle, KernelId::gather);
  GatherParams mine = given;
  if (mine.count <= 0 || mine.count > GatherParams::kMaxRuns)
    caller.refuse(ReportKind::bad_argument,
                  std::to_string(mine.count) + " runs are not of one grid");
  const OperationPtr work = operation("gather of " + std::to_string(mine.count) + " runs");
  for (GatherParams::Run& run : std::span(mine.runs, static_cast<size_t>(mine.count))) {
    const auto bytes = static_cast<size_t>(run.bytes);
    add_access(caller, *work, ByteSet(run.source, bytes), false, run.source);
    add_access(caller, *work, ByteSet(run.target, bytes), true, run.target);
  }
  submit_kernel(caller, stream, work, [mine] { cuda::run_on_host(mine); });
}

void preload_kernels(Caller& caller) {
  caller.device_state().loaded = {KernelId::strided, KernelId::transpose, KernelId::gather};
}

}  // namespace dlbridge::cuda_sim::functions
