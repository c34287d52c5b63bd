// SPDX-License-Identifier: Apache-2.0
// The pack kernels: what they touch, and their own bodies run on the host.
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <numeric>

#include "call.h"
#include "functions.h"
#include "kernels/pack_body.h"

namespace dlbridge::cuda_sim::functions {
namespace {

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

}  // namespace

cudaError_t launch(KernelId kernel, const PackParams& given, cudaStream_t handle) {
  return call("launch", kContext, [&](Caller& caller) {
    State& state = caller.state;
    cudaError_t error;
    StreamState* stream = usable_stream(caller, handle, error);
    if (stream == nullptr) return error;
    if (stream->device != caller.device()) {
      state.report(ReportKind::wrong_context, "launch on the " + stream->name() + " while cuda:" +
                                                  std::to_string(caller.device()) + " is current");
      return cudaErrorInvalidResourceHandle;
    }
    const PackParams params = given;
    if (error = check_params(params); error != cudaSuccess) {
      state.report(ReportKind::bad_argument, "launch: these parameters are not of one copy");
      return error;
    }
    if (caller.context().loaded.insert(kernel).second) {
      state.report(ReportKind::lazy_kernel_load,
                   "kernel " + std::to_string(static_cast<int>(kernel)) +
                       " was not preloaded on cuda:" + std::to_string(stream->device));
    }
    Draft draft;
    draft.text = "kernel " + std::to_string(static_cast<int>(kernel)) + " from " +
                 hex(reinterpret_cast<uintptr_t>(params.source)) + " to " +
                 hex(reinterpret_cast<uintptr_t>(params.target));
    draft.accesses.push_back(state.access(
        bytes_of(params.source, params, params.source_stride_bytes), false, stream->device));
    draft.accesses.push_back(state.access(
        bytes_of(params.target, params, params.target_stride_bytes), true, stream->device));
    std::string trouble;
    for (const Access& access : draft.accesses) {
      if (trouble.empty()) trouble = trouble_with(access.place, stream->device);
    }
    if (!trouble.empty()) {
      state.report(draft.accesses[0].place.kind == Place::freed ||
                           draft.accesses[1].place.kind == Place::freed
                       ? ReportKind::use_after_destroy
                       : ReportKind::bad_argument,
                   "launch: " + trouble);
      draft.accesses.clear();
      draft.run = [&state, device = stream->device] {
        state.kill(device, cudaErrorIllegalAddress);
      };
      submit(caller, *stream, std::move(draft));
      return cudaSuccess;
    }
    if (draft.accesses[0].bytes.overlaps(draft.accesses[1].bytes)) {
      state.report(ReportKind::bad_argument, "launch: source and target overlap");
    }
    const uintptr_t from = draft.accesses[0].alias();
    const uintptr_t to = draft.accesses[1].alias();
    draft.run = [&state, kernel, params, from, to, text = draft.text, device = stream->device] {
      PackParams mine = params;
      const auto source = reinterpret_cast<uintptr_t>(mine.source) + from;
      const auto target = reinterpret_cast<uintptr_t>(mine.target) + to;
      mine.source = reinterpret_cast<const void*>(source);
      mine.target = reinterpret_cast<void*>(target);
      try {
        cuda::run_on_host(kernel, mine);
      } catch (const std::exception& thrown) {
        state.report(ReportKind::bad_argument, text + ": " + thrown.what());
        state.kill(device, cudaErrorMisalignedAddress);
      }
    };
    submit(caller, *stream, std::move(draft));
    return cudaSuccess;
  });
}

cudaError_t preload_kernels() {
  return call("preload_kernels", kContext | kUnsafe, [](Caller& caller) {
    caller.context().loaded = {KernelId::strided, KernelId::transpose};
    return cudaSuccess;
  });
}

}  // namespace dlbridge::cuda_sim::functions
