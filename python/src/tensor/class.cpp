// SPDX-License-Identifier: Apache-2.0
// The Python class dlbridge.Tensor.
#include "tensor/exports.h"

#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "bridge/registry.h"
#include "convert/arguments.h"
#include "convert/call.h"
#include "convert/convert.h"
#include "convert/host.h"
#include "dlbridge/copy.h"
#include "dlbridge/layout.h"
#include "gpu/streams.h"
#include "sources/capsule.h"
#include "sources/exchange_table.h"
#include "tensor/value.h"

namespace dlbridge::python {

namespace {

PyObject* repr(PyObject* self) {
  return translated([&] {
    const TensorView& view = unpack_tensor(self).view();
    const auto list = [](std::span<const int64_t> values) {
      return repr_of(checked(tuple_of(values)).get());
    };
    char address[32];
    std::snprintf(address, sizeof address, "%#llx",
                  reinterpret_cast<unsigned long long>(view.data));
    return new_str("dlbridge.Tensor(shape=" + list(view.extents()) + ", strides=" +
                   list(view.stride_elements()) + ", dtype=" + DType(view.dtype).name() +
                   ", device=" + Device(view.device).name() + ", data_ptr=" + address +
                   (view.access == Access::writable ? "" : ", read_only") +
                   (view.is_copied ? ", is_copied" : "") + ")");
  });
}

// The methods that Python writes.
PyObject* repr_html(PyObject* self, PyObject*) {
  return translated([&] { return call_python("dlbridge._html", "tensor", "(O)", self).release(); });
}

PyObject* jax_array(PyObject* self, PyObject*) {
  return translated(
      [&] { return call_python("dlbridge._arrays", "jax_array", "(O)", self).release(); });
}

PyObject* to_bytes(PyObject* self, PyObject*) {
  return translated(
      [&] { return call_python("dlbridge._arrays", "to_bytes", "(O)", self).release(); });
}

PyObject* reduce(PyObject* self, PyObject* protocol) {
  return translated([&] {
    return call_python("dlbridge._pickling", "reduce_tensor", "(OO)", self, protocol).release();
  });
}

// ---- Attributes

template <auto get>
PyObject* getter(PyObject* self, void*) {
  return translated([&] { return checked(get(unpack_tensor(self))).release(); });
}

template <auto get>
constexpr PyGetSetDef attribute(const char* name, const char* doc) {
  return {name, getter<get>, nullptr, doc, nullptr};
}

PyGetSetDef g_attributes[] = {
    attribute<[](const Tensor& t) { return tuple_of(t.view().extents()); }>(
        "shape", "Extents, one for each dimension."),
    attribute<[](const Tensor& t) { return tuple_of(t.view().stride_elements()); }>(
        "strides", "Strides in elements (not bytes), one for each dimension."),
    attribute<[](const Tensor& t) { return new_str(DType(t.view().dtype).name()); }>(
        "dtype", "Name of the element type, such as `float32`."),
    attribute<[](const Tensor& t) { return new_str(Device(t.view().device).name()); }>(
        "device", "Device of the memory, such as `cpu` or `cuda:0`."),
    attribute<[](const Tensor& t) { return PyLong_FromLong(t.view().ndim); }>(
        "ndim", "Number of dimensions."),
    attribute<[](const Tensor& t) { return PyLong_FromLongLong(t.view().nbytes()); }>(
        "nbytes", "Size of all elements in bytes, packed densely."),
    attribute<[](const Tensor& t) { return PyLong_FromLongLong(t.view().size()); }>(
        "size", "Number of elements: the product of the extents."),
    attribute<[](const Tensor& t) { return PyLong_FromLongLong(t.view().itemsize()); }>(
        "itemsize", "Bytes from one element to the next where they lie densely."),
    attribute<[](const Tensor& t) {
      const TensorView& view = t.view();
      return PyLong_FromUnsignedLongLong(reinterpret_cast<uint64_t>(view.data) + view.byte_offset);
    }>("data_ptr", "Address of the first element, byte_offset included."),
    attribute<[](const Tensor& t) { return PyBool_FromLong(t.view().access != Access::writable); }>(
        "read_only",
        "True if the memory must not be written. Memory of a legacy capsule counts as read-only."),
    attribute<[](const Tensor& t) { return PyBool_FromLong(t.view().is_copied); }>(
        "is_copied", "True if the memory was copied for this exchange."),
    attribute<[](const Tensor& t) { return offer_array(t.view()); }>(
        "__array_interface__",
        "NumPy's array interface, version 3, for Pillow and others. AttributeError for memory of a "
        "GPU and for types such as bfloat16."),
    attribute<[](const Tensor& t) { return offer_cuda_array(t.view(), t.stream); }>(
        "__cuda_array_interface__",
        "CUDA Array Interface, version 3, for CuPy and numba. AttributeError for other memory."),
    {}};

// ---- Methods

// A refusal reaches the user of a consumer that asks for a legacy capsule, such as JAX.
PyObject* legacy_capsule(Loan&& loan) {
  try {
    return to_capsule(std::move(loan), false);
  } catch (const Error& error) {
    std::string text = error.what();
    text += "; jax.numpy.asarray(x) and numpy.asarray(x) take it as it is";
    if (error.code() == ErrorCode::read_only)
      text += ", every consumer takes dlbridge.from_dlpack(x, copy=True)";
    throw Error(error.code(), error.field(), text);
  }
}

PyObject* dlpack(PyObject* self, PyObject* args, PyObject* keywords) {
  static constexpr const char* kNames[] = {"stream", "max_version", "dl_device", "copy", nullptr};
  return translated([&] {
    PyObject *stream = Py_None, *max_version = Py_None, *dl_device = Py_None, *copy = Py_None;
    read(args, keywords, "|$OOOO:__dlpack__", kNames, &stream, &max_version, &dl_device, &copy);
    const bool versioned = wants_versioned(max_version);
    const bool copies = parse_copy(copy) == CopyMode::always;
    const DLDevice own = unpack_tensor(self).view().device;
    const DLDevice place =
        copies && Device(own).is_host() ? DLDevice(Device(DeviceType::cpu)) : own;
    const DLDevice device = export_device(dl_device, place);
    const Reference exported(copies ? convert(self, tensor_adapter(), {.copy = CopyMode::always})
                                    : Py_NewRef(self));
    Tensor& tensor = unpack_tensor(exported.get());
    Loan loan = tensor.share();
    order_export(stream, tensor.view(), tensor.stream, loan);
    loan.view().device = device;
    // Consumers that compare strides take a dimension of size 1 for a gap otherwise.
    canonical_strides(loan.view(), loan.strides());
    return versioned ? to_capsule(std::move(loan), true) : legacy_capsule(std::move(loan));
  });
}

PyObject* dlpack_device(PyObject* self, PyObject*) {
  const Device device(unpack_tensor(self).view().device);
  return Py_BuildValue("ii", static_cast<int>(device.type()), device.is_host() ? 0 : device.id());
}

// numpy.asarray(tensor): NumPy's copy=None copies for a cast alone, which is our copy="named".
PyObject* as_array(PyObject* self, PyObject* args, PyObject* keywords) {
  static constexpr const char* kNames[] = {"dtype", "copy", nullptr};
  return translated([&] {
    CallArguments call;
    PyObject* copy = Py_None;
    read(args, keywords, "|OO:__array__", kNames, &call.dtype, &copy);
    const Adapter& numpy = adapter_named("numpy");
    Request request = read_request(call, numpy);
    if (copy != Py_None) {
      const int truth = PyObject_IsTrue(copy);
      if (truth < 0) throw_pending();
      request.copy = truth != 0 ? CopyMode::always : CopyMode::never;
    }
    return convert(self, numpy, request);
  });
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

template <CopyMode mode>
PyObject* copied(PyObject* self, PyObject*) {
  return translated([&] { return convert(self, tensor_adapter(), Request{.copy = mode}); });
}

// Every Tensor has memory: there is no empty one to construct.
PyObject* refuse_new(PyTypeObject*, PyObject*, PyObject*) {
  return translated([]() -> PyObject* {
    throw_type_error("dlbridge.Tensor is not constructed directly: call dlbridge.from_dlpack(x)");
  });
}

Py_ssize_t length(PyObject* self) noexcept {
  const TensorView& view = unpack_tensor(self).view();
  if (view.ndim > 0) return static_cast<Py_ssize_t>(view.shape[0]);
  PyErr_SetString(PyExc_TypeError,
                  "len() of a dlbridge.Tensor without dimensions: x.size is 1, its element is "
                  "x.numpy()[()]");
  return -1;
}

/// A handle is true whatever it holds; without this, len() would decide.
int truth(PyObject*) noexcept { return 1; }

template <typename Entry>
PyMethodDef method_def(const char* name, Entry* entry, int flags, const char* doc) {
  return {name, as_c_function(entry), flags, doc};
}

constexpr int kFast = METH_FASTCALL | METH_KEYWORDS;
constexpr int kAny = METH_VARARGS | METH_KEYWORDS;
PyMethodDef g_methods[] = {
    method_def("numpy", method<Function::to_numpy>, kFast,
               "numpy($self, /, *, device=None, dtype=None, order='K', copy='named', "
               "out=None, assume_writable=False)\n--\n\n"
               "Return to_numpy(self, ...)."),
    method_def("torch", method<Function::to_torch>, kFast,
               "torch($self, /, *, device=None, dtype=None, order='K', copy='named', "
               "on_write=None, assume_writable=False)\n--\n\n"
               "Return to_torch(self, ...)."),
    method_def(
        "tobytes", to_bytes, METH_NOARGS,
        "tobytes($self, /)\n--\n\n"
        "Return a copy of the elements as bytes, in row-major order. Memory on a GPU is refused."),
    method_def("__dlpack__", dlpack, kAny,
               "__dlpack__($self, /, *, stream=None, max_version=None, dl_device=None, "
               "copy=None)\n--\n\n"
               "Return a DLPack capsule as the Python array API specifies: versioned if "
               "max_version is (1, 0) or later."),
    method_def("__dlpack_device__", dlpack_device, METH_NOARGS,
               "__dlpack_device__($self, /)\n--\n\n"
               "Return device type and id as DLPack numbers them."),
    method_def("__array__", as_array, kAny,
               "__array__($self, /, dtype=None, copy=None)\n--\n\n"
               "Support numpy.asarray(). copy=None copies only to cast; copy=False never copies."),
    method_def("__copy__", copied<CopyMode::unset>, METH_NOARGS,
               "__copy__($self, /)\n--\n\nReturn another handle over the same memory."),
    method_def("__deepcopy__", copied<CopyMode::always>, METH_O,
               "__deepcopy__($self, memo, /)\n--\n\nReturn from_dlpack(self, copy=True)."),
    method_def("__reduce_ex__", reduce, METH_O,
               "__reduce_ex__($self, protocol, /)\n--\n\nSupport pickle."),
    method_def("__jax_array__", jax_array, METH_NOARGS,
               "__jax_array__($self, /)\n--\n\n"
               "Support jax.numpy: an array over the same memory, or a copy where JAX needs one."),
    method_def("_repr_html_", repr_html, METH_NOARGS,
               "_repr_html_($self, /)\n--\n\nReturn the table of notebooks."),
    {nullptr, nullptr, 0, nullptr},
};

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
memory of its own.

>>> h = dlbridge.from_dlpack(np.zeros((2, 3), "float32"))
>>> h.shape, h.strides, h.nbytes, h.device
((2, 3), (3, 1), 24, 'cpu')
>>> h.torch().shape, np.asarray(h).shape
(torch.Size([2, 3]), (2, 3))

.. versionadded:: 0.1.0)";

}  // namespace

void bind_tensor(PyObject* module) {
  static const std::string name = std::string(PyModule_GetName(module)) + ".Tensor";
  const auto slot = [](auto* pointer) {
    return const_cast<void*>(reinterpret_cast<const void*>(pointer));
  };
  PyType_Slot slots[] = {{Py_tp_new, slot(refuse_new)},
                         {Py_tp_dealloc, slot(deallocate_tensor)},
                         {Py_tp_repr, slot(repr)},
                         {Py_tp_methods, g_methods},
                         {Py_tp_getset, g_attributes},
                         {Py_tp_doc, slot(kDoc)},
                         {Py_mp_length, slot(length)},
                         {Py_nb_bool, slot(truth)},
                         {Py_bf_getbuffer, slot(get_buffer)},
                         {Py_bf_releasebuffer, slot(release_buffer)},
                         {0, nullptr}};
  PyType_Spec spec = {name.c_str(), sizeof(Tensor), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                      slots};
  const Reference type = checked(PyType_FromSpec(&spec));
  const Reference table(new_exchange_capsule());
  if (PyObject_SetAttrString(type.get(), kExchangeTableAttribute, table.get()) < 0 ||
      PyModule_AddObjectRef(module, "Tensor", type.get()) < 0) {
    throw_pending();
  }
  tensor_type = reinterpret_cast<PyTypeObject*>(Py_NewRef(type.get()));
  register_tensor_adapter();
}

}  // namespace dlbridge::python
