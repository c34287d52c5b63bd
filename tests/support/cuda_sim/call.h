// SPDX-License-Identifier: Apache-2.0
// The functions of the table, and the call that they are part of.
#pragma once

#include "state.h"

namespace dlbridge::cuda_sim {

/// A call in progress. The lock is held. What a function refuses it throws as a CUresult.
struct Caller {
  State& state;
  Lock& lock;
  ThreadState& thread;
  std::string_view function;

  DeviceState& device_state() const { return *state.current(thread); }
  int device() const { return device_state().device; }
  /// Those of a handle; refuses handles that name none, or one that was destroyed or is lost.
  StreamState& stream(CUstream handle) const;
  EventState& event(CUevent handle) const;
  /// One that something may be enqueued on now.
  StreamState& usable_stream(CUstream handle) const;
  void submit(StreamState& stream, OperationPtr operation) const {
    stream.used_through_table = true;
    state.submit(stream, std::move(operation));
  }
  [[noreturn]] void refuse(ReportKind kind, const std::string& why,
                           CUresult code = CUDA_ERROR_INVALID_VALUE) const;
};

template <class Member>
struct WithCaller;
template <class... Parameters>
struct WithCaller<CUresult (*)(Parameters...)> {
  using Function = void(Caller&, Parameters...);
};

/// One function for each member of CudaApi, of its name and parameters.
namespace functions {

#define OWN(member, parameters) WithCaller<decltype(cuda::CudaApi::member)>::Function member;
#define DRIVER(member, symbol, parameters) OWN(member, parameters)
#include "runtime/cuda_api.def"
#undef DRIVER
#undef OWN

}  // namespace functions
}  // namespace dlbridge::cuda_sim
