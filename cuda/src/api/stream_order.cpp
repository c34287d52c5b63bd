// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/cuda/stream_order.h"

#include "device/call.h"
#include "operation/operation.h"

namespace dlbridge::cuda {

void order_streams(Stream earlier, Stream later) {
  Call call(Engine::get().device(later.device.device_id), later);
  const CheckedStream from = call.checked(earlier);
  const CheckedStream to = call.stream;
  if (from.ordered && to.ordered) call.run([&] { call.device.order(from.handle, to.handle); });
}

Future when_reached(Stream stream) {
  Call call(Engine::get().device(stream.device.device_id), stream);
  if (!call.stream.ordered) return ended_with({});
  return call.run([&] {
    auto operation = std::make_shared<Operation>(call);
    Waiter::Work work = operation->waiter().prepare([operation] { operation->complete(); });
    Future future(operation, std::make_shared<const Future::Results>());
    operation->begin();
    operation->end(false);
    operation->waiter().post(std::move(work));
    return future;
  });
}

Stream import_stream(int32_t device_id) {
  DeviceContext& device = Engine::get().started(device_id);
  const CallGuard guard(device.api(), device.context());
  return stream_of(device_id, static_cast<void*>(device.import_stream()));
}

Stream allocation_stream(int32_t device_id) {
  return stream_of(device_id,
                   static_cast<void*>(Engine::get().started(device_id).allocation_stream()));
}

}  // namespace dlbridge::cuda
