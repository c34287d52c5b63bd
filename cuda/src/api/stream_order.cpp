// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/cuda/stream_order.h"

#include "operation/operation.h"
#include "runtime/cuda_error.h"
#include "runtime/guards.h"

namespace dlbridge::cuda {

void order_streams(Stream earlier, Stream later) {
  Engine& engine = Engine::get();
  DeviceContext& device = engine.device(later.device.device_id);
  const CallGuard guard(engine.api(), device.context());
  const CheckedStream from = engine.checked(earlier, device, guard.callers());
  const CheckedStream to = engine.checked(later, device, guard.callers());
  if (!from.ordered || !to.ordered || from.handle == to.handle) return;
  try {
    device.order(from.handle, to.handle);
  } catch (const CudaError& error) {
    device.fails_with(error.cuda_code());
    throw;
  }
}

Future when_reached(Stream stream) {
  Engine& engine = Engine::get();
  DeviceContext& device = engine.device(stream.device.device_id);
  const CallGuard guard(engine.api(), device.context());
  const CheckedStream checked = engine.checked(stream, device, guard.callers());
  auto state = std::make_shared<FutureState>(std::vector<SharedLoan>{});
  if (!checked.ordered) {
    state->completion()->succeed();
    return Future(std::move(state));
  }
  try {
    auto operation = std::make_unique<Operation>(engine, device, checked);
    operation->waiter().start();
    operation->publish_to(state->completion());
    operation->begin();
    operation->end(false);
    Operation::post(std::move(operation));
  } catch (const CudaError& error) {
    device.fails_with(error.cuda_code());
    throw;
  }
  return Future(std::move(state));
}

Stream import_stream(int32_t device_id) {
  Engine& engine = Engine::get();
  DeviceContext& device = engine.started(device_id);
  const CallGuard guard(engine.api(), device.context());
  return stream_of(device_id, static_cast<void*>(device.import_stream()));
}

Stream allocation_stream(int32_t device_id) {
  Engine& engine = Engine::get();
  DeviceContext& device = engine.started(device_id);
  const CallGuard guard(engine.api(), device.context());
  return stream_of(device_id, static_cast<void*>(device.allocation_stream()));
}

}  // namespace dlbridge::cuda
