// SPDX-License-Identifier: Apache-2.0
// The Python class dlbridge.Tensor.
#include "tensor/class.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <vector>

#include "bridge/registry.h"
#include "convert/arguments.h"
#include "convert/call.h"
#include "convert/convert.h"
#include "dlbridge/copy.h"
#include "gpu/streams.h"
#include "sources/capsule.h"
#include "sources/exchange_table.h"
#include "tensor/exports.h"
#include "tensor/value.h"

namespace nb = nanobind;

namespace dlbridge::python {

namespace {

nb::tuple to_tuple(std::span<const int64_t> values) {
  return nb::steal<nb::tuple>(checked(tuple_of(values)).release());
}

std::string repr(const Tensor& self) {
  const TensorView& view = self.memory.view();
  const auto list = [](std::span<const int64_t> values) {
    return std::string(nb::repr(to_tuple(values)).c_str());
  };
  char address[32];
  std::snprintf(address, sizeof address, "%#llx", reinterpret_cast<unsigned long long>(view.data));
  return "dlbridge.Tensor(shape=" + list(view.extents()) +
         ", strides=" + list(view.stride_elements()) + ", dtype=" + DType(view.dtype).name() +
         ", device=" + Device(view.device).name() + ", data_ptr=" + address +
         (view.access == Access::writable ? "" : ", read_only") +
         (view.is_copied ? ", is_copied" : "") + ")";
}

// The loan that __dlpack__ exports: the memory itself, or a copy of it.
Loan loan_for_export(const Tensor& self, CopyMode copy) {
  if (copy != CopyMode::always) return self.memory.share();
  const TensorView& view = self.memory.view();
  const Request request{.copy = CopyMode::always};
  const Plan decision = plan(view, neutral_traits(), request);
  if (decision.verdict == Verdict::refuse) throw refusal(view, neutral_traits(), request, decision);
  Loan loan = allocate_like(view);
  const nb::gil_scoped_release released;
  copy_host(view, loan.view());
  return loan;
}

// A copy on the memory's own device: a capsule of a new Tensor there.
nb::object copy_for_export(const nb::object& self, const nb::object& stream, bool versioned) {
  const nb::object copied =
      nb::steal(convert(self.ptr(), tensor_adapter(), {.copy = CopyMode::always}));
  nb::dict keywords;
  keywords["stream"] = stream;
  if (versioned) keywords["max_version"] = nb::make_tuple(kDLPackMajor, kDLPackMinor);
  return copied.attr("__dlpack__")(**keywords);
}

nb::object dlpack(const nb::object& self_object, const nb::object& stream,
                  const nb::object& max_version, const nb::object& dl_device,
                  const nb::object& copy) {
  const Tensor& self = unpack_tensor(self_object.ptr());
  const TensorView& view = self.memory.view();
  const bool host = Device(view.device).is_host();
  const bool versioned = wants_versioned(max_version.ptr());
  const CopyMode mode = parse_copy(copy.ptr());
  const bool copies = mode == CopyMode::always && host;
  const DLDevice place = copies ? DLDevice(Device(DeviceType::cpu)) : view.device;
  const DLDevice device = export_device(dl_device.ptr(), place);
  if (!host && mode == CopyMode::always) return copy_for_export(self_object, stream, versioned);
  Loan loan = loan_for_export(self, mode);
  order_export(stream.ptr(), view, self.stream, loan);
  loan.view().device = device;
  return nb::steal(to_capsule(std::move(loan), versioned));
}

// numpy.asarray(tensor): NumPy's copy=None copies for a cast alone, which is our copy="named".
nb::object as_array(const nb::object& self, const nb::object& dtype, const nb::object& copy) {
  const Adapter& numpy = adapter_named("numpy");
  CallArguments call;
  call.dtype = dtype.ptr();
  Request request = read_request(call, numpy);
  if (!copy.is_none()) request.copy = nb::cast<bool>(copy) ? CopyMode::always : CopyMode::never;
  return nb::steal(convert(self.ptr(), numpy, request));
}

// x.numpy(...) and x.torch(...): the functions of that name, with the same keywords.
template <Function function>
PyObject* method(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* names) {
  return translated([&] {
    if (nargs == 0 && names == nullptr) [[likely]]
      return call<function>(&self, 1, nullptr);
    const Py_ssize_t named = names != nullptr ? PyTuple_GET_SIZE(names) : 0;
    std::vector<PyObject*> all{self};
    all.insert(all.end(), args, args + nargs + named);
    return call<function>(all.data(), nargs + 1, names);
  });
}

template <Function function>
PyMethodDef method_def(const char* name, const char* doc) {
  const auto entry = reinterpret_cast<void (*)()>(method<function>);
  return {name, reinterpret_cast<PyCFunction>(entry), METH_FASTCALL | METH_KEYWORDS, doc};
}

PyMethodDef g_methods[] = {
    method_def<Function::to_numpy>(
        "numpy",
        "numpy($self, /, *, device=None, dtype=None, copy='named', out=None)\n--\n\n"
        "Return to_numpy(self, ...)."),
    method_def<Function::to_torch>(
        "torch",
        "torch($self, /, *, device=None, dtype=None, copy='named')\n--\n\n"
        "Return to_torch(self, ...)."),
    {nullptr, nullptr, 0, nullptr},
};

nb::object copied(const nb::object& self, CopyMode copy) {
  return nb::steal(convert(self.ptr(), tensor_adapter(), Request{.copy = copy}));
}

nb::object reduce(const nb::object& self, const nb::object& protocol) {
  return nb::module_::import_("dlbridge._pickling").attr("reduce_tensor")(self, protocol);
}

constexpr const char* kDoc =
    R"(Neutral handle over the memory of a tensor of any framework. from_dlpack() makes it. The memory
lives until the last handle and the last export of it are gone. Handles compare equal if they are
one object.

Every DLPack consumer takes a Tensor. Host memory is also a buffer (memoryview, bytes, hashlib,
file.write); read-only and broadcast memory is a read-only buffer. A dtype for which PEP 3118 has no
format (bfloat16, float8, complex32 ...) is a buffer for consumers that request no format, such as
file.write.

A pickle holds host memory, shape, dtype and whether the memory is read-only. Elements with gaps
between them are packed in the order of their dimensions. Protocol 5 can move the memory out of
band; the loaded Tensor then shares the buffers it is given, and is read-only where they are.
is_copied is False after loading.

copy.copy() returns another handle over the same memory, copy.deepcopy() a handle over writable
memory of its own.)";

// Every Tensor has memory: there is no empty one to construct.
PyObject* refuse_new(PyTypeObject*, PyObject*, PyObject*) {
  return translated([]() -> PyObject* {
    throw_type_error("dlbridge.Tensor is not constructed directly: call dlbridge.from_dlpack(x)");
  });
}

PyType_Slot g_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
    {Py_tp_methods, g_methods},
    {Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)},
    {Py_bf_releasebuffer, reinterpret_cast<void*>(release_buffer)},
    {0, nullptr},
};

}  // namespace

void bind_tensor(nb::module_& module) {
  nb::class_<Tensor> type(module, "Tensor", nb::type_slots(g_slots), kDoc);
  type.def_prop_ro(
          "shape", [](const Tensor& t) { return to_tuple(t.memory.view().extents()); },
          nb::sig("def shape(self) -> tuple[int, ...]"), "Extents, one for each dimension.")
      .def_prop_ro(
          "strides", [](const Tensor& t) { return to_tuple(t.memory.view().stride_elements()); },
          nb::sig("def strides(self) -> tuple[int, ...]"),
          "Strides in elements (not bytes), one for each dimension.")
      .def_prop_ro(
          "dtype", [](const Tensor& t) { return DType(t.memory.view().dtype).name(); },
          "Name of the element type, such as 'float32'.")
      .def_prop_ro(
          "device", [](const Tensor& t) { return Device(t.memory.view().device).name(); },
          "Device of the memory, such as 'cpu' or 'cuda:0'.")
      .def_prop_ro(
          "ndim", [](const Tensor& t) { return t.memory.view().ndim; }, "Number of dimensions.")
      .def_prop_ro(
          "nbytes", [](const Tensor& t) { return t.memory.view().nbytes(); },
          "Size of all elements in bytes, packed densely.")
      .def_prop_ro(
          "data_ptr",
          [](const Tensor& t) {
            const TensorView& view = t.memory.view();
            return reinterpret_cast<uint64_t>(view.data) + view.byte_offset;
          },
          "Address of the first element, byte_offset included.")
      .def_prop_ro(
          "read_only", [](const Tensor& t) { return t.memory.view().access != Access::writable; },
          "True if the memory must not be written. Memory of a legacy capsule counts as read-only.")
      .def_prop_ro(
          "is_copied", [](const Tensor& t) { return t.memory.view().is_copied; },
          "True if the memory was copied for this exchange.")
      .def("__dlpack__", dlpack, nb::kw_only(), nb::arg("stream").none() = nb::none(),
           nb::arg("max_version").none() = nb::none(), nb::arg("dl_device").none() = nb::none(),
           nb::arg("copy").none() = nb::none(),
           nb::sig(
               "def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | "
               "None = None, "
               "dl_device: tuple[int, int] | None = None, copy: bool | None = None) -> typing.Any"),
           "Return a DLPack capsule as the Python array API specifies: versioned if max_version is "
           "(1, 0) or later.")
      .def(
          "__dlpack_device__",
          [](const Tensor& t) {
            const Device device(t.memory.view().device);
            return std::pair<int, int>(static_cast<int>(device.type()),
                                       device.is_host() ? 0 : device.id());
          },
          "Return device type and id as DLPack numbers them.")
      .def_prop_ro(
          "__cuda_array_interface__",
          [](const Tensor& t) { return nb::steal(offer_cuda_array(t.memory.view(), t.stream)); },
          nb::sig("def __cuda_array_interface__(self) -> dict[str, typing.Any]"),
          "CUDA Array Interface, version 3, for CuPy and numba. AttributeError for other memory.")
      .def("__array__", as_array, nb::arg("dtype").none() = nb::none(),
           nb::arg("copy").none() = nb::none(),
           nb::sig("def __array__(self, dtype: typing.Any = None, copy: bool | None = None) -> "
                   "NDArray[typing.Any]"),
           "Support numpy.asarray(). copy=None copies only to cast; copy=False never copies.")
      .def(
          "__copy__", [](const nb::object& self) { return copied(self, CopyMode::unset); },
          nb::sig("def __copy__(self) -> Tensor"), "Return another handle over the same memory.")
      .def(
          "__deepcopy__",
          [](const nb::object& self, const nb::object&) { return copied(self, CopyMode::always); },
          nb::arg("memo"), nb::sig("def __deepcopy__(self, memo: typing.Any, /) -> Tensor"),
          "Return from_dlpack(self, copy=True).")
      .def("__reduce_ex__", reduce, nb::arg("protocol"),
           nb::sig("def __reduce_ex__(self, protocol: SupportsIndex, /) -> tuple[typing.Any, ...]"),
           "Support pickle.")
      .def("__repr__", repr);
  bind_pickling(module);
  type.attr(kExchangeTableAttribute) = nb::steal(new_exchange_capsule());
  register_tensor_adapter(reinterpret_cast<PyTypeObject*>(type.ptr()));
}

}  // namespace dlbridge::python
