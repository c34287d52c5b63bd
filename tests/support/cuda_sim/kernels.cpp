// SPDX-License-Identifier: Apache-2.0
// The pack kernels: what they touch, and their own bodies run on the host.
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <numeric>
#include <span>

#include "call.h"
#include "functions.h"
#include "kernels/pack_body.h"

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

cudaError_t check_params(const PackParams& params) {
  const int32_t size = params.element_bytes;
  const bool known_size = size > 0 && size <= 16 && (size & (size - 1)) == 0;
  if (!known_size || params.rank < 0 || params.rank > PackParams::kMaxRank) {
    return cudaErrorInvalidValue;
  }
  int64_t count = 1;
  for (int32_t i = 0; i < params.rank; ++i) count *= params.extent[i];
  if (count != params.count) return cudaErrorInvalidValue;
  return count > 0 ? cudaSuccess : cudaErrorInvalidConfiguration;  // an empty grid
}

// The stream that a kernel is launched on, or null and the error of the launch.
StreamState* stream_of_kernel(Caller& caller, cudaStream_t handle, KernelId kernel,
                              cudaError_t& error) {
  State& state = caller.state;
  StreamState* stream = usable_stream(caller, handle, error);
  if (stream == nullptr) return nullptr;
  if (stream->device != caller.device()) {
    state.report(ReportKind::wrong_context, "launch on the " + stream->name() + " while cuda:" +
                                                std::to_string(caller.device()) + " is current");
    error = cudaErrorInvalidResourceHandle;
    return nullptr;
  }
  if (caller.context().loaded.insert(kernel).second) {
    state.report(ReportKind::lazy_kernel_load,
                 "kernel " + std::to_string(static_cast<int>(kernel)) +
                     " was not preloaded on cuda:" + std::to_string(stream->device));
  }
  return stream;
}

template <class Address>
Address* seen_by(const Access& access, Address* address) {
  return reinterpret_cast<Address*>(reinterpret_cast<uintptr_t>(address) + access.alias());
}

// Enqueues a kernel. It kills the device where it reaches memory that is not there.
void submit_kernel(Caller& caller, StreamState& stream, Draft&& draft) {
  State& state = caller.state;
  std::string trouble;
  bool freed = false;
  for (const Access& access : draft.accesses) {
    freed |= access.place.kind == Place::freed;
    if (trouble.empty()) trouble = trouble_with(access.place, stream.device);
  }
  if (!trouble.empty()) {
    state.report(freed ? ReportKind::use_after_destroy : ReportKind::bad_argument,
                 "launch: " + trouble);
    draft.accesses.clear();
    draft.run = [&state, device = stream.device] { state.kill(device, cudaErrorIllegalAddress); };
    return submit(caller, stream, std::move(draft));
  }
  for (size_t i = 1; i < draft.accesses.size(); i += 2) {
    if (draft.accesses[i - 1].bytes.overlaps(draft.accesses[i].bytes))
      state.report(ReportKind::bad_argument, "launch: source and target overlap");
  }
  draft.run = [&state, run = std::move(draft.run), text = draft.text, device = stream.device] {
    try {
      run();
    } catch (const std::exception& thrown) {
      state.report(ReportKind::bad_argument, text + ": " + thrown.what());
      state.kill(device, cudaErrorMisalignedAddress);
    }
  };
  submit(caller, stream, std::move(draft));
}

}  // namespace

cudaError_t launch(KernelId kernel, const PackParams& given, cudaStream_t handle) {
  return call("launch", kContext, [&](Caller& caller) {
    State& state = caller.state;
    cudaError_t error;
    StreamState* stream = stream_of_kernel(caller, handle, kernel, error);
    if (stream == nullptr) return error;
    const PackParams params = given;
    if (error = check_params(params); error != cudaSuccess) {
      state.report(ReportKind::bad_argument, "launch: these parameters are not of one copy");
      return error;
    }
    Draft draft;
    draft.text = "kernel " + std::to_string(static_cast<int>(kernel)) + " from " +
                 hex(reinterpret_cast<uintptr_t>(params.source)) + " to " +
                 hex(reinterpret_cast<uintptr_t>(params.target));
    draft.accesses.push_back(state.access(
        bytes_of(params.source, params, params.source_stride_bytes), false, stream->device));
    draft.accesses.push_back(state.access(
        bytes_of(params.target, params, params.target_stride_bytes), true, stream->device));
    PackParams mine = params;
    mine.source = seen_by(draft.accesses[0], mine.source);
    mine.target = seen_by(draft.accesses[1], mine.target);
    draft.run = [kernel, mine] { cuda::run_on_host(kernel, mine); };
    submit_kernel(caller, *stream, std::move(draft));
    return cudaSuccess;
  });
}

cudaError_t gather(const GatherParams& given, cudaStream_t handle) {
  return call("gather", kContext, [&](Caller& caller) {
    State& state = caller.state;
    cudaError_t error;
    StreamState* stream = stream_of_kernel(caller, handle, KernelId::gather, error);
    if (stream == nullptr) return error;
    if (given.count <= 0 || given.count > GatherParams::kMaxRuns) {
      state.report(ReportKind::bad_argument,
                   "gather: " + std::to_string(given.count) + " runs are not of one grid");
      return cudaErrorInvalidConfiguration;
    }
    GatherParams mine = given;
    Draft draft;
    draft.text = "gather of " + std::to_string(mine.count) + " runs";
    for (GatherParams::Run& run : std::span(mine.runs, static_cast<size_t>(mine.count))) {
      const auto bytes = static_cast<size_t>(run.bytes);
      draft.accesses.push_back(state.access(ByteSet(run.source, bytes), false, stream->device));
      draft.accesses.push_back(state.access(ByteSet(run.target, bytes), true, stream->device));
      run.source = seen_by(*(draft.accesses.end() - 2), run.source);
      run.target = seen_by(draft.accesses.back(), run.target);
    }
    draft.run = [mine] { cuda::run_on_host(mine); };
    submit_kernel(caller, *stream, std::move(draft));
    return cudaSuccess;
  });
}

cudaError_t preload_kernels() {
  return call("preload_kernels", kContext | kUnsafe, [](Caller& caller) {
    caller.context().loaded = {KernelId::strided, KernelId::transpose, KernelId::gather};
    return cudaSuccess;
  });
}

}  // namespace dlbridge::cuda_sim::functions
