#include "tensor/value.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>

#include "bridge/registry.h"
#include "convert/arguments.h"
#include "convert/convert.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "gpu/streams.h"
#include "sources/capsule.h"
#include "sources/cuda_array.h"
#include "sources/exchange_table.h"
#include "support/errors.h"
#include "support/reference.h"
#include "tensor/buffer.h"
#include "tensor/pickling.h"

namespace nb = nanobind;

namespace dlbridge::python {

namespace {

[[noreturn]] void throw_python() { throw nb::python_error(); }

nb::object steal_or_throw(PyObject* object) {
  if (object == nullptr) throw_python();
  return nb::steal(object);
}

nb::tuple to_tuple(std::span<const int64_t> values) {
  nb::object tuple = steal_or_throw(PyTuple_New(static_cast<Py_ssize_t>(values.size())));
  for (size_t i = 0; i < values.size(); ++i) {
    PyObject* value = PyLong_FromLongLong(values[i]);
    if (value == nullptr) throw_python();
    PyTuple_SET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(i), value);
  }
  return nb::borrow<nb::tuple>(tuple);
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
  const TensorView& view = self.memory.view();
  if (copy != CopyMode::always) return self.memory.share();
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
      steal_or_throw(convert(self.ptr(), tensor_adapter(), {.copy = CopyMode::always}));
  nb::dict keywords;
  keywords["stream"] = stream;
  if (versioned) keywords["max_version"] = nb::make_tuple(kDLPackMajor, kDLPackMinor);
  return copied.attr("__dlpack__")(**keywords);
}

nb::object dlpack(const nb::object& self_object, nb::object stream, nb::object max_version,
                  nb::object dl_device, nb::object copy) {
  try {
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
    return steal_or_throw(to_capsule(std::move(loan), versioned));
  } catch (const Error& error) {
    raise(error);
    throw_python();
  }
}

nb::object convert_or_throw(const nb::object& self, const char* to, Request request,
                            nb::object dtype) {
  const Adapter* target = adapter_named(to);
  if (target == nullptr) throw_python();
  if (!dtype.is_none()) {
    DLDataType parsed;
    if (Error* error = target->parse_dtype(dtype.ptr(), &parsed)) {
      raise(error);
      throw_python();
    }
    request.dtype = parsed;
  }
  return steal_or_throw(convert(self.ptr(), *target, request));
}

// numpy.asarray(tensor): NumPy's copy=None means "if needed", which is our unset state.
nb::object as_array(const nb::object& self, nb::object dtype, nb::object copy) {
  Request request;
  if (!copy.is_none()) request.copy = nb::cast<bool>(copy) ? CopyMode::always : CopyMode::never;
  return convert_or_throw(self, "numpy", request, std::move(dtype));
}

nb::object copied(const nb::object& self, CopyMode copy) {
  return steal_or_throw(convert(self.ptr(), tensor_adapter(), Request{.copy = copy}));
}

nb::object reduce(const nb::object& self, const nb::object& protocol) {
  return nb::module_::import_("dlbridge._pickling").attr("reduce_tensor")(self, protocol);
}

constexpr const char* kDoc =
    R"(Neutral handle over memory that some framework lends. Made by from_dlpack(); keeps the memory
alive until the last handle or export of it is gone. Handles are equal where they are one object.

Every DLPack consumer takes it. Host memory is a buffer, too (memoryview, bytes, hashlib,
file.write); read-only and broadcast memory is a read-only one. A dtype for which PEP 3118 has no
format (bfloat16, float8, complex32 ...) is a buffer for who asks for no format, as file.write does.

Pickles hold host memory, shape, dtype and whether it is read-only. Elements that have gaps are
packed, in the order of their dimensions. Under protocol 5 the memory may go out of band; what is
loaded then shares the buffers that it is given, and is read-only where they are. is_copied is
False after loading.

copy.copy() gives another handle over the same memory, copy.deepcopy() writable memory of its own.)";

// A Tensor always has memory: there is nothing that an empty one could be.
PyObject* refuse_new(PyTypeObject*, PyObject*, PyObject*) {
  return raise_type_error(
      "dlbridge.Tensor is not made by calling it: pass x to dlbridge.from_dlpack(x)");
}

PyType_Slot g_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
    {Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)},
    {Py_bf_releasebuffer, reinterpret_cast<void*>(release_buffer)},
    {0, nullptr},
};

// ---- the adapter ----

nb::handle g_tensor_type;

bool accepts(PyObject* x) noexcept { return nb::isinstance<Tensor>(nb::handle(x)); }

Error* describe(PyObject* x, Loan* loan) noexcept {
  return guarded([&] {
    loan->describe(unpack_tensor(x).memory.view());
    loan->original = unpack_tensor(x).memory.original();
  });
}

Error* acquire(PyObject* x, Loan* loan) noexcept {
  loan->attach(unpack_tensor(x).memory.reference());
  return nullptr;
}

// A new reference. nanobind's exception becomes ours, which passes what Python has set through.
PyObject* new_handle(Loan&& loan) {
  try {
    return nb::cast(Tensor{SharedLoan(std::move(loan)), 0}).release().ptr();
  } catch (nb::python_error& error) {
    error.restore();
    throw Error(ErrorCode::python_exception, "", "a Tensor could not be made");
  }
}

Error* wrap(Loan* loan, PyObject** out) noexcept {
  return guarded([&] { *out = new_handle(std::move(*loan)); });
}

Error* empty(const TensorView* like, DLDataType dtype, PyObject** out, Loan* memory) noexcept {
  return guarded([&] {
    TensorView shape = *like;
    shape.dtype = dtype;
    Loan loan = allocate_like(shape);
    memory->describe(loan.view());
    *out = new_handle(std::move(loan));
  });
}

const Adapter g_tensor_adapter = [] {
  Adapter adapter;
  adapter.core = &neutral_traits();
  adapter.traits = &neutral_traits();
  adapter.accepts = accepts;
  adapter.describe = describe;
  adapter.acquire = acquire;
  adapter.wrap = wrap;
  adapter.empty = empty;
  return adapter;
}();

}  // namespace

const Tensor& unpack_tensor(PyObject* x) noexcept { return *nb::inst_ptr<Tensor>(nb::handle(x)); }

void set_stream(PyObject* x, intptr_t stream) noexcept {
  if (accepts(x)) nb::inst_ptr<Tensor>(nb::handle(x))->stream = stream;
}

const Adapter& tensor_adapter() noexcept { return g_tensor_adapter; }

void bind_tensor(PyObject* module_object) {
  nb::module_ module = nb::borrow<nb::module_>(module_object);
  nb::class_<Tensor> type(module, "Tensor", nb::type_slots(g_slots), kDoc);
  type.def_prop_ro(
          "shape", [](const Tensor& t) { return to_tuple(t.memory.view().extents()); },
          nb::sig("def shape(self) -> tuple[int, ...]"), "Extents, one a dimension.")
      .def_prop_ro(
          "strides", [](const Tensor& t) { return to_tuple(t.memory.view().stride_elements()); },
          nb::sig("def strides(self) -> tuple[int, ...]"),
          "Strides in elements (not bytes), one a dimension.")
      .def_prop_ro(
          "dtype", [](const Tensor& t) { return DType(t.memory.view().dtype).name(); },
          "Name of the element type, such as 'float32'.")
      .def_prop_ro(
          "device", [](const Tensor& t) { return Device(t.memory.view().device).name(); },
          "Where the memory is, such as 'cpu' or 'cuda:0'.")
      .def_prop_ro(
          "ndim", [](const Tensor& t) { return t.memory.view().ndim; }, "Number of dimensions.")
      .def_prop_ro(
          "nbytes", [](const Tensor& t) { return t.memory.view().nbytes(); },
          "Bytes of all elements, packed densely.")
      .def_prop_ro(
          "data_ptr",
          [](const Tensor& t) {
            const TensorView& view = t.memory.view();
            return reinterpret_cast<uint64_t>(view.data) + view.byte_offset;
          },
          "Address of the first element; byte_offset is included.")
      .def_prop_ro(
          "read_only", [](const Tensor& t) { return t.memory.view().access != Access::writable; },
          "Whether the memory must not be written. Memory from a legacy capsule counts as "
          "read-only.")
      .def_prop_ro(
          "is_copied", [](const Tensor& t) { return t.memory.view().is_copied; },
          "Whether the memory was copied for this exchange.")
      .def(
          "numpy",
          [](const nb::object& self) { return convert_or_throw(self, "numpy", {}, nb::none()); },
          nb::sig("def numpy(self) -> NDArray[typing.Any]"), "to_numpy(self).")
      .def(
          "torch",
          [](const nb::object& self) { return convert_or_throw(self, "torch", {}, nb::none()); },
          nb::sig("def torch(self) -> torch.Tensor"), "to_torch(self).")
      .def("__dlpack__", dlpack, nb::kw_only(), nb::arg("stream").none() = nb::none(),
           nb::arg("max_version").none() = nb::none(), nb::arg("dl_device").none() = nb::none(),
           nb::arg("copy").none() = nb::none(),
           nb::sig(
               "def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | "
               "None = None, "
               "dl_device: tuple[int, int] | None = None, copy: bool | None = None) -> typing.Any"),
           "A capsule as the Python array API says: versioned if max_version is (1, 0) or later.")
      .def(
          "__dlpack_device__",
          [](const Tensor& t) {
            const Device device(t.memory.view().device);
            return std::pair<int, int>(static_cast<int>(device.type()),
                                       device.is_host() ? 0 : device.id());
          },
          "Device type and id, as DLPack numbers them.")
      .def_prop_ro(
          "__cuda_array_interface__",
          [](const Tensor& t) {
            return steal_or_throw(offer_cuda_array(t.memory.view(), t.stream));
          },
          nb::sig("def __cuda_array_interface__(self) -> dict[str, typing.Any]"),
          "For CuPy, numba and others, version 3; an AttributeError for memory off CUDA devices.")
      .def("__array__", as_array, nb::arg("dtype").none() = nb::none(),
           nb::arg("copy").none() = nb::none(),
           nb::sig("def __array__(self, dtype: typing.Any = None, copy: bool | None = None) -> "
                   "NDArray[typing.Any]"),
           "For numpy.asarray(); copy=None copies for a cast only, copy=False never.")
      .def(
          "__copy__", [](const nb::object& self) { return copied(self, CopyMode::unset); },
          nb::sig("def __copy__(self) -> Tensor"), "Another handle over the same memory.")
      .def(
          "__deepcopy__",
          [](const nb::object& self, const nb::object&) { return copied(self, CopyMode::always); },
          nb::arg("memo"), nb::sig("def __deepcopy__(self, memo: typing.Any, /) -> Tensor"),
          "from_dlpack(self, copy=True).")
      .def("__reduce_ex__", reduce, nb::arg("protocol"),
           nb::sig("def __reduce_ex__(self, protocol: SupportsIndex, /) -> tuple[typing.Any, ...]"),
           "For pickle.")
      .def("__repr__", repr);
  bind_pickling(module);
  type.attr("__dlpack_c_exchange_api__") = steal_or_throw(new_exchange_capsule());
  g_tensor_type = type;
  static Adapter adapter = g_tensor_adapter;
  adapter.exact_types[0] = reinterpret_cast<PyTypeObject*>(type.ptr());
  add_adapter(&adapter);
}

}  // namespace dlbridge::python
