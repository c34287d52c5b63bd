// SPDX-License-Identifier: Apache-2.0
#include "gpu/stage.h"

#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>

#include "bridge/exchange_table.h"
#include "bridge/registry.h"
#include "convert/containers.h"
#include "convert/host.h"
#include "dlbridge/copy.h"
#include "dlbridge/python_object/hold.h"
#include "gpu/convert.h"
#include "gpu/launch.h"
#include "gpu/streams.h"
#include "sources/capsule.h"
#include "sources/cuda_array.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

constexpr const char* kRoot = "xs";  // what messages call the container
constexpr int64_t kPieceBytes = int64_t{64} << 20;
constexpr int64_t kAlignment = 256;  // of leaves in one block on a device, as of an allocation

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

// A source in a form that a device can copy.
struct Opened {
  Source source;
  Source made;
  Reference holder;
  Source* from = nullptr;
  intptr_t stream = 0;  // of a source on a device

  const TensorView& view() const noexcept { return from->view(); }
};

// Opens `x`, and throws where it cannot be staged as `asked`.
void open_to_stage(Opened& one, PyObject* x, const Adapter& target, Request asked,
                   std::optional<intptr_t> stream, Source::CommonStream* common) {
  if (stream) one.source.prefer_stream(*stream);
  if (common != nullptr) one.source.share_stream(*common);
  one.source.open(x);
  const Plan plan = plan_for(one.source, target, asked);
  if (plan.verdict == Verdict::refuse) throw refusal_of(one.source, target, asked, plan);
  if (!plan.stages) {
    throw Error(ErrorCode::invalid_device, "device",
                "x is on " + Device(one.source.view().device).name() +
                    " already: nothing is to be staged; share it with to_numpy(x), to_torch(x) or "
                    "from_dlpack(x)");
  }
  if (plan.casts) {
    throw Error(ErrorCode::unsupported_dtype, "dtype",
                "dtype is " + DType(one.source.view().dtype).name() + ", out's is " +
                    DType(*asked.dtype).name() +
                    ": stage() does not cast; pass an out of the same dtype");
  }
  require_arrival(one.source.view(), target);
  one.from = &plain(one.source, one.made, one.holder);
  if (Device(*asked.device).is_host())
    one.stream = producer_stream(require_device_module(), *one.from, stream);
}

// Starts a copy to fresh memory on a device.
void start_on_device(StartedCopies& copies, StagedLeaf& leaf, Opened& one,
                     const StagingRequest& request) {
  const DeviceModule& module = require_device_module();
  DeviceTarget fresh = allocate_on_device(module, *copies.target, one.view(),
                                          request.device->device_id, request.stream);
  one.from->acquire();
  leaf.operation = copies.operations.size();
  leaf.object = std::move(fresh.object);
  copies.operations.push_back(start(module, std::move(one.from->loan()), std::move(fresh.memory),
                                    fresh.stream, request.options));
}

// ---- Many

// What stands for a leaf until there is a result: a capsule of its number, counted from 1.
constexpr const char* kPlaceholder = "dlbridge.leaf";

std::optional<size_t> leaf_of(PyObject* x) noexcept {
  if (PyCapsule_IsValid(x, kPlaceholder) == 0) return std::nullopt;
  return reinterpret_cast<size_t>(PyCapsule_GetPointer(x, kPlaceholder)) - 1;
}

// Whether a leaf is staged; others are passed through.
bool is_tensor(PyObject* x) {
  if (adapter_for(x) != nullptr || is_capsule(x) || exchange_table_of(Py_TYPE(x)) != nullptr)
    return true;
  if (PyLong_Check(x) || PyFloat_Check(x) || PyUnicode_Check(x) || PyBytes_Check(x) ||
      PyType_Check(x)) {
    return false;
  }
  return static_cast<bool>(dlpack_method_of(x)) ||
         static_cast<bool>(attribute_of(x, kCudaArrayAttribute));
}

// The tensors of a container.
struct Leaves {
  std::vector<std::unique_ptr<Opened>> opened;
  std::unordered_multimap<const void*, size_t> by_address;

  // The leaf with the same elements in the same memory, or a new one for `one`.
  size_t add(std::unique_ptr<Opened> one) {
    const TensorView& view = one->view();
    const auto [first, last] = by_address.equal_range(view.data);
    const auto tied = std::find_if(first, last, [&](const auto& entry) {
      const TensorView& seen = opened[entry.second]->view();
      return !view.is_empty() && seen.byte_offset == view.byte_offset &&
             DType(seen.dtype) == DType(view.dtype) &&
             std::ranges::equal(seen.extents(), view.extents()) &&
             std::ranges::equal(seen.stride_elements(), view.stride_elements());
    });
    if (tied != last) {
      // The copy waits for the work of both.
      const Opened& other = *opened[tied->second];
      if (other.stream != one->stream)
        check(require_device_module().order(view.device.device_id, one->stream, other.stream));
      return tied->second;
    }
    by_address.emplace(view.data, opened.size());
    opened.push_back(std::move(one));
    return opened.size() - 1;
  }
};

// Runs `body` for a leaf. Its Error names where that lies.
template <typename Body>
void at_leaf(PyObject* structure, size_t leaf, Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::python_exception) {
      Py_XDECREF(map_container(structure, kRoot, [&](PyObject* x) -> PyObject* {
        if (leaf_of(x) == leaf) throw Error(error);
        return Py_NewRef(x);
      }));
    }
    throw;
  }
}

// One operation for each device and stream.
void start_on_host(StartedCopies& copies, Leaves& leaves, const StagingRequest& request,
                   bool in_pieces) {
  struct Place {
    int32_t device;
    intptr_t stream;
    int64_t piece;
    bool operator==(const Place&) const = default;
  };
  std::vector<Place> places;
  int64_t bytes = 0;
  for (const auto& one : leaves.opened) {
    places.push_back(
        {one->view().device.device_id, one->stream, in_pieces ? bytes / kPieceBytes : 0});
    bytes += one->view().nbytes();
  }
  std::vector<bool> taken(places.size(), false);
  for (size_t first = 0; first < places.size(); ++first) {
    if (taken[first]) continue;
    std::vector<Loan> loans;
    for (size_t i = first; i < places.size(); ++i) {
      if (taken[i] || !(places[i] == places[first])) continue;
      taken[i] = true;
      Source& from = *leaves.opened[i]->from;
      at_leaf(copies.structure.get(), i, [&] { from.acquire(); });
      copies.leaves[i].operation = copies.operations.size();
      copies.leaves[i].index = loans.size();
      loans.push_back(std::move(from.loan()));
    }
    const DeviceModule& module = require_device_module();
    copies.operations.emplace_back(module, module.start_to_host, loans.data(), loans.size(),
                                   places[first].device, places[first].stream, &request.options);
  }
}

Loan bytes_like(int64_t count) {
  Loan bytes;
  bytes.set_rank(1);
  bytes.shape()[0] = count;
  bytes.strides()[0] = 1;
  bytes.view().dtype = DType(TypeCode::uint, 8);
  bytes.view().device = Device(DeviceType::cpu);
  return bytes;
}

// Copies small leaves through one block in host memory to one block on the device.
void start_small_on_device(StartedCopies& copies, Leaves& leaves, const std::vector<size_t>& small,
                           const StagingRequest& request) {
  const DeviceModule& module = require_device_module();
  std::vector<int64_t> offsets;
  int64_t bytes = 0;
  for (const size_t i : small) {
    offsets.push_back(bytes);
    bytes += (leaves.opened[i]->view().nbytes() + kAlignment - 1) / kAlignment * kAlignment;
  }
  const Loan layout = bytes_like(bytes);
  Loan host;
  if (module.fits_pool(bytes))
    check(module.pinned_empty(&layout.view(), &host));
  else
    host = allocate_like(layout.view());
  std::vector<Loan> pieces;
  for (size_t k = 0; k < small.size(); ++k) {
    Source& from = *leaves.opened[small[k]]->from;
    pieces.push_back(dense_like(from.view()));
    pieces.back().view().data = static_cast<std::byte*>(host.view().data) + offsets[k];
    wait_for_host_access(from);
    copy_elements(from.view(), pieces.back().view(), true);
  }
  DeviceTarget block = allocate_on_device(module, *copies.target, layout.view(),
                                          request.device->device_id, request.stream);
  auto* const memory = static_cast<std::byte*>(block.memory.view().data);
  const DLDevice device = block.memory.view().device;
  const Deleter original = block.memory.original;
  const size_t operation = copies.operations.size();
  copies.operations.push_back(
      start(module, std::move(host), std::move(block.memory), block.stream, request.options));
  for (size_t k = 0; k < small.size(); ++k) {
    StagedLeaf& leaf = copies.leaves[small[k]];
    leaf.operation = operation;
    if (copies.target->piece != nullptr) {
      PyObject* object = nullptr;
      check(copies.target->piece(block.object.get(), &pieces[k].view(), offsets[k], &object));
      leaf.object = Reference(object);
      continue;
    }
    Loan& piece = pieces[k];
    piece.view().data = memory + offsets[k];
    piece.view().device = device;
    piece.attach(hold(block.object.get()));
    piece.original = original;
    leaf.object = wrapped(*copies.target, std::move(piece));
    if (copies.target->set_stream != nullptr)
      copies.target->set_stream(leaf.object.get(), block.stream);
  }
}

void start_all_on_device(StartedCopies& copies, Leaves& leaves, const StagingRequest& request) {
  std::vector<size_t> small;
  for (size_t i = 0; i < leaves.opened.size(); ++i) {
    const TensorView& view = leaves.opened[i]->view();
    if (!view.is_empty() && view.nbytes() <= kSmallBytes && !DType(view.dtype).is_subbyte())
      small.push_back(i);
  }
  if (small.size() < 2) small.clear();
  if (!small.empty()) start_small_on_device(copies, leaves, small, request);
  for (size_t i = 0; i < leaves.opened.size(); ++i) {
    if (copies.leaves[i].object) continue;
    at_leaf(copies.structure.get(), i,
            [&] { start_on_device(copies, copies.leaves[i], *leaves.opened[i], request); });
  }
}

}  // namespace

StartedCopies start_staging(PyObject* x, const StagingRequest& request) {
  StagingRequest asked = request;
  Loan out_memory;
  if (request.out != nullptr) {
    asked.target = adapter_for(request.out);
    if (asked.target == nullptr) {
      throw_wrong_type("out", request.out, "a numpy.ndarray, a torch.Tensor or a dlbridge.Tensor");
    }
    check(asked.target->describe(request.out, &out_memory));
    if (request.device && !Device::same_place(*request.device, out_memory.view().device)) {
      throw Error(ErrorCode::invalid_device, "device",
                  "device is " + Device(*request.device).name() + ", but out is on " +
                      Device(out_memory.view().device).name() + ": leave device out");
    }
    require_out(out_memory.view(), *asked.target);
    asked.device = out_memory.view().device;
  }
  if (!asked.device) {
    throw Error(ErrorCode::device_not_named, "device",
                "neither device= nor out= was given: pass device=\"cpu\" or device=\"cuda:0\"");
  }
  if (asked.target == nullptr) asked.target = &default_target(*asked.device);
  Request conversion{.into_existing = request.out != nullptr, .device = asked.device};
  if (request.out != nullptr) conversion.dtype = out_memory.view().dtype;
  Opened one;
  open_to_stage(one, x, *asked.target, conversion, request.stream, nullptr);

  StartedCopies copies;
  copies.target = asked.target;
  StagedLeaf& leaf = copies.leaves.emplace_back();
  if (request.out == nullptr && !Device(*asked.device).is_host()) {
    start_on_device(copies, leaf, one, asked);
    return copies;
  }
  const DeviceModule& module = require_device_module();
  if (request.out == nullptr) {
    copies.operations.push_back(start_to_host(module, *one.from, one.stream, request.options));
    return copies;
  }
  leaf.object = Reference(Py_NewRef(request.out));
  intptr_t stream = one.stream;
  if (!Device(*asked.device).is_host()) {
    Source onto;
    onto.open(request.out);
    stream = producer_stream(module, onto, request.stream);
    if (stream != kNoSync && asked.target->set_stream != nullptr)
      asked.target->set_stream(request.out, stream);
  }
  one.from->acquire();
  check(asked.target->acquire(request.out, &out_memory));
  copies.operations.push_back(
      start(module, std::move(one.from->loan()), std::move(out_memory), stream, request.options));
  return copies;
}

StartedCopies start_stagings(PyObject* xs, const StagingRequest& request, bool in_pieces) {
  StartedCopies copies;
  copies.target = &default_target(*request.device);
  const bool kept = is_tensor(xs) || is_container(xs);
  if (!kept && Py_TYPE(xs)->tp_iter == nullptr && !PySequence_Check(xs)) {
    throw_wrong_type("xs", xs, "a dict, list, tuple or dataclass of tensors: pass [x] for one");
  }
  const Reference root = kept ? Reference(Py_NewRef(xs)) : checked(PySequence_List(xs));
  Leaves leaves;
  Source::CommonStream common;
  const auto open = [&](PyObject* x) -> PyObject* {
    if (!is_tensor(x)) return Py_NewRef(x);
    auto one = std::make_unique<Opened>();
    const Request asked{.device = request.device};
    open_to_stage(*one, x, *copies.target, asked, request.stream, &common);
    const size_t leaf = leaves.add(std::move(one));
    return checked(PyCapsule_New(reinterpret_cast<void*>(leaf + 1), kPlaceholder, nullptr))
        .release();
  };
  copies.structure = Reference(map_container(root.get(), kRoot, open));
  copies.leaves.resize(leaves.opened.size());
  if (Device(*request.device).is_host())
    start_on_host(copies, leaves, request, in_pieces);
  else
    start_all_on_device(copies, leaves, request);
  return copies;
}

Reference result_of(StartedCopies& copies) {
  for (const Staging& each : copies.operations) static_cast<void>(each.result(0));
  const auto object = [&](size_t i) {
    StagedLeaf& leaf = copies.leaves[i];
    if (!leaf.object) {
      Reference made =
          wrapped(*copies.target, copies.operations[leaf.operation].result(leaf.index));
      if (!leaf.object) leaf.object = std::move(made);  // another thread may have made it
    }
    return Py_NewRef(leaf.object.get());
  };
  if (!copies.structure) return Reference(object(0));
  return Reference(map_container(copies.structure.get(), kRoot, [&](PyObject* x) {
    const std::optional<size_t> leaf = leaf_of(x);
    return leaf ? object(*leaf) : Py_NewRef(x);
  }));
}

}  // namespace dlbridge::python
