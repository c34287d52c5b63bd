// SPDX-License-Identifier: Apache-2.0
#include "gpu/stage.h"

#include <memory>
#include <string>

#include "bridge/registry.h"
#include "convert/host.h"
#include "gpu/launch.h"
#include "gpu/streams.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

// A Future wraps what arrives: it does not cast or repack.
void require_arrival(const TensorView& view, const Adapter& target) {
  if (arrives_as_it_is(view, target)) return;
  throw Error(ErrorCode::float4_packing, "dtype",
              "dtype is " + DType(view.dtype).name() + ", which " + target.traits->name +
                  " packs otherwise, and stage() does not repack: pass to=\"dlpack\", or call "
                  "to_numpy(x, device=\"cpu\")");
}

// The stream that a staging waits for: the one that was named, which then waits for the source's
// own.
intptr_t producer_stream(const DeviceModule& module, const Source& source,
                         std::optional<intptr_t> named) {
  if (!named) return source.stream();
  // A framework's current stream says where it works, not where this object was made: the caller
  // named the stream for that reason.
  const bool known = source.adapter().device_empty == nullptr;
  if (*named != kNoSync && known && !source.view().is_empty())
    check(module.order(source.view().device.device_id, source.stream(), *named));
  return *named;
}

// The target of a staging that names none: NumPy on the host, on a device a framework that
// allocates there, else a dlbridge.Tensor.
const Adapter& default_target(DLDevice device) {
  if (Device(device).is_host()) return adapter_named("numpy");
  const Adapter* adapter = device_adapter();
  return adapter != nullptr ? *adapter : tensor_adapter();
}

}  // namespace

StartedStaging start_staging(PyObject* x, const StagingRequest& request) {
  Source opened;
  if (request.stream) opened.prefer_stream(*request.stream);
  opened.open(x);
  Reference holder;
  Source made;
  std::optional<DLDevice> device = request.device;
  Loan out_memory;
  const Adapter* target = request.target;
  if (request.out != nullptr) {
    target = adapter_for(request.out);
    if (target == nullptr) {
      throw_type_error(std::string("out is ") + Py_TYPE(request.out)->tp_name +
                       "; expected a numpy.ndarray, a torch.Tensor or a dlbridge.Tensor");
    }
    check(target->describe(request.out, &out_memory));
    if (device && !Device::same_place(*device, out_memory.view().device)) {
      throw Error(ErrorCode::invalid_device, "device",
                  "device is " + Device(*device).name() + ", but out is on " +
                      Device(out_memory.view().device).name() + ": leave device out");
    }
    device = out_memory.view().device;
  }
  if (!device) {
    throw Error(ErrorCode::device_not_named, "device",
                "neither device= nor out= was given: pass device=\"cpu\" or device=\"cuda:0\"");
  }
  if (target == nullptr) target = &default_target(*device);
  const DeviceModule& module = require_device_module();
  Request asked{.into_existing = request.out != nullptr, .device = device};
  if (request.out != nullptr) asked.dtype = out_memory.view().dtype;
  const Plan plan = plan_for(opened, *target, asked);
  if (plan.verdict == Verdict::refuse) throw refusal_of(opened, *target, asked, plan);
  if (!plan.stages) {
    throw Error(ErrorCode::invalid_device, "device",
                "x is on " + Device(opened.view().device).name() +
                    " already: nothing is to be staged; share it with to_numpy(x), to_torch(x) or "
                    "from_dlpack(x)");
  }
  if (plan.casts) {
    throw Error(ErrorCode::unsupported_dtype, "dtype",
                "dtype is " + DType(opened.view().dtype).name() + ", out's is " +
                    DType(out_memory.view().dtype).name() +
                    ": stage() does not cast; pass an out of the same dtype");
  }
  require_arrival(opened.view(), *target);
  Source& source = plain(opened, made, holder);
  StartedStaging started;
  started.target = target;
  if (Device(*device).is_host()) {
    const intptr_t producer = producer_stream(module, source, request.stream);
    if (request.out == nullptr) {
      started.staging = start_to_host(module, source, producer, request.options);
    } else {
      started.staging = start_to_host_into(module, source, *target, request.out, out_memory,
                                           producer, request.options);
      started.object = Reference(Py_NewRef(request.out));
    }
    return started;
  }
  if (request.out != nullptr) {
    Source onto;
    onto.open(request.out);
    const intptr_t consumer = producer_stream(module, onto, request.stream);
    if (consumer != kNoSync && target->set_stream != nullptr)
      target->set_stream(request.out, consumer);
    check(target->acquire(request.out, &out_memory));
    started.staging =
        start_to_device(module, source, std::move(out_memory), consumer, request.options);
    started.object = Reference(Py_NewRef(request.out));
    return started;
  }
  DeviceTarget fresh =
      allocate_on_device(module, *target, source.view(), device->device_id, request.stream);
  started.object = std::move(fresh.object);
  started.staging =
      start_to_device(module, source, std::move(fresh.memory), fresh.stream, request.options);
  return started;
}

std::vector<StartedGroup> start_stagings(PyObject* sequence, std::optional<intptr_t> stream,
                                         const StagingOptions& options) {
  const Reference items = checked(PySequence_Fast(sequence, "xs is no sequence of tensors"));
  const auto count = static_cast<size_t>(PySequence_Fast_GET_SIZE(items.get()));
  const DeviceModule& module = require_device_module();
  const Adapter& numpy = adapter_named("numpy");

  struct Opened {
    Source source;
    Source made;
    Reference holder;
    Source* from = nullptr;
  };
  std::vector<std::unique_ptr<Opened>> all;
  struct Place {
    int32_t device;
    intptr_t stream;
    bool operator==(const Place&) const = default;
  };
  std::vector<Place> places;
  Source::CommonStream common;
  for (size_t i = 0; i < count; ++i) {
    all.push_back(std::make_unique<Opened>());
    Opened& one = *all.back();
    if (stream) one.source.prefer_stream(*stream);
    one.source.share_stream(common);
    one.source.open(PySequence_Fast_GET_ITEM(items.get(), static_cast<Py_ssize_t>(i)));
    Request asked{.device = Device(DeviceType::cpu)};
    const Plan plan = plan_for(one.source, numpy, asked);
    if (plan.verdict == Verdict::refuse) throw refusal_of(one.source, numpy, asked, plan);
    if (!plan.stages) {
      throw Error(ErrorCode::invalid_device, "device",
                  "xs[" + std::to_string(i) + "] is in host memory already: leave it out");
    }
    require_arrival(one.source.view(), numpy);
    one.from = &plain(one.source, one.made, one.holder);
    places.push_back(
        {one.from->view().device.device_id, producer_stream(module, *one.from, stream)});
  }
  std::vector<StartedGroup> groups;
  std::vector<bool> taken(count, false);
  for (size_t first = 0; first < count; ++first) {
    if (taken[first]) continue;
    StartedGroup group;
    std::vector<Loan> loans;
    for (size_t i = first; i < count; ++i) {
      if (taken[i] || !(places[i] == places[first])) continue;
      taken[i] = true;
      all[i]->from->acquire();
      loans.push_back(std::move(all[i]->from->loan()));
      group.indices.push_back(i);
    }
    PendingStaging* pending = nullptr;
    check(module.start_to_host(loans.data(), loans.size(), places[first].device,
                               places[first].stream, &options, &pending));
    group.staging = Staging(module, pending);
    groups.push_back(std::move(group));
  }
  return groups;
}

}  // namespace dlbridge::python
