// SPDX-License-Identifier: Apache-2.0
// dlbridge_toy: a framework with one kind of array, vectors of float32, a current stream and an
// allocator that records streams. Its adapter is registered with _core like those of the package.
#include "bridge/capsule_module.h"
#include "dlbridge/python_object/hold.h"

namespace dlbridge::python {
namespace {

struct Array {
  PyObject_HEAD PyObject* owner;  // keeps the memory alive
  void* data;
  Py_ssize_t size;
  DLDevice device;
};

intptr_t g_stream = 1;           // the stream on which this framework works now
PyObject* g_recorded = nullptr;  // a list of (array, stream)

PyObject* create(PyTypeObject* type, PyObject* args, PyObject*) {
  unsigned long long address;
  Py_ssize_t size;
  int device_type;
  int device_id;
  PyObject* owner;
  if (!PyArg_ParseTuple(args, "Kn(ii)O", &address, &size, &device_type, &device_id, &owner))
    return nullptr;
  PyObject* object = type->tp_alloc(type, 0);
  if (object == nullptr) return nullptr;
  auto* array = reinterpret_cast<Array*>(object);
  array->owner = Py_NewRef(owner);
  array->data = reinterpret_cast<void*>(address);
  array->size = size;
  array->device = {static_cast<DLDeviceType>(device_type), device_id};
  return object;
}

void destroy(PyObject* object) {
  Py_XDECREF(reinterpret_cast<Array*>(object)->owner);
  Py_TYPE(object)->tp_free(object);
}

PyTypeObject* array_type() {
  static PyType_Slot slots[] = {{Py_tp_new, reinterpret_cast<void*>(create)},
                                {Py_tp_dealloc, reinterpret_cast<void*>(destroy)},
                                {0, nullptr}};
  static PyType_Spec spec = {"dlbridge_toy.Array", sizeof(Array), 0, Py_TPFLAGS_DEFAULT, slots};
  static PyObject* const type = PyType_FromSpec(&spec);
  return reinterpret_cast<PyTypeObject*>(type);
}

bool accepts(PyObject* x) noexcept { return PyObject_TypeCheck(x, array_type()); }

Error* describe(PyObject* x, Loan* loan) noexcept {
  return guarded([&] {
    const auto* array = reinterpret_cast<Array*>(x);
    loan->set_rank(1);
    loan->shape()[0] = array->size;
    loan->strides()[0] = 1;
    loan->view().data = array->data;
    loan->view().dtype = DType(TypeCode::float_, 32);
    loan->view().device = array->device;
    loan->original = {x, release_python_object};
  });
}

Error* acquire(PyObject* x, Loan* loan) noexcept {
  loan->attach(hold(x));
  return nullptr;
}

Error* reuse_storage(Loan* loan, PyObject** out) noexcept {
  auto* x = static_cast<PyObject*>(loan->original.context);
  const bool ours = loan->original.release == release_python_object && accepts(x);
  *out = ours && reinterpret_cast<Array*>(x)->data == loan->view().data ? Py_NewRef(x) : nullptr;
  return nullptr;
}

Error* current_stream(PyObject*, int32_t, intptr_t* out) noexcept {
  *out = g_stream;
  return nullptr;
}

Error* record_stream(PyObject* x, int32_t, intptr_t stream) noexcept {
  return guarded([&] {
    const Reference entry = checked(Py_BuildValue("On", x, static_cast<Py_ssize_t>(stream)));
    if (PyList_Append(g_recorded, entry.get()) < 0) throw_pending();
  });
}

const TargetTraits g_traits = [] {
  TargetTraits traits;
  traits.name = "toy";
  traits.max_ndim = 1;
  traits.dtypes.add({TypeCode::float_, 32});
  traits.devices = 1u << kDLCPU | 1u << kDLCUDA;
  return traits;
}();

PyObject* set_stream(PyObject*, PyObject* stream) {
  g_stream = PyLong_AsSsize_t(stream);
  return PyErr_Occurred() ? nullptr : Py_NewRef(Py_None);
}

PyMethodDef g_functions[] = {{"set_stream", set_stream, METH_O, nullptr},
                             {nullptr, nullptr, 0, nullptr}};

PyModuleDef g_module = {PyModuleDef_HEAD_INIT, "dlbridge_toy", nullptr, -1, g_functions};

}  // namespace
}  // namespace dlbridge::python

PyMODINIT_FUNC PyInit_dlbridge_toy() {
  using namespace dlbridge::python;
  static Adapter adapter = [] {
    Adapter toy;
    toy.traits = &g_traits;
    toy.accepts = accepts;
    toy.describe = describe;
    toy.acquire = acquire;
    toy.reuse_storage = reuse_storage;
    toy.current_stream = current_stream;
    toy.record_stream = record_stream;
    return toy;
  }();
  return translated([] {
    Reference module(new_adapter_module(g_module, adapter));
    g_recorded = checked(PyList_New(0)).release();
    if (PyModule_AddObjectRef(module.get(), "recorded", g_recorded) < 0 ||
        PyModule_AddObjectRef(module.get(), "Array", reinterpret_cast<PyObject*>(array_type())) < 0)
      throw_pending();
    return module.release();
  });
}
