// SPDX-License-Identifier: Apache-2.0
// floor: what each conversion cannot do without, as Python functions without any check: the objects
// that the result consists of, the references that keep the memory, the GIL where torch frees it.
// benchmarks/overhead.py times dlbridge beside it. Wrong for all but the arrays it is called with.
#include <ATen/core/Tensor.h>
#include <Python.h>
#include <c10/core/StorageImpl.h>
#include <torch/csrc/autograd/python_variable.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>

namespace {

void drop_with_gil(void* object) {
  const PyGILState_STATE state = PyGILState_Ensure();
  Py_DECREF(static_cast<PyObject*>(object));
  PyGILState_Release(state);
}

// A storage, a tensor and its Python object over the memory of a float32 array of rank 2.
PyObject* to_torch(PyObject*, PyObject* x) {
  auto* array = reinterpret_cast<PyArrayObject*>(x);
  at::DataPtr data(PyArray_DATA(array), Py_NewRef(x), drop_with_gil, c10::Device(c10::kCPU));
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), PyArray_NBYTES(array), std::move(data), nullptr, false);
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(std::move(storage)), c10::DispatchKeySet(c10::DispatchKey::CPU),
      caffe2::TypeMeta::Make<float>());
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(
      {PyArray_DIM(array, 0), PyArray_DIM(array, 1)});
  return THPVariable_Wrap(std::move(tensor));
}

// The same of each array of a list.
PyObject* to_torch_list(PyObject*, PyObject* arrays) {
  const Py_ssize_t count = PyList_GET_SIZE(arrays);
  PyObject* list = PyList_New(count);
  for (Py_ssize_t i = 0; i < count; ++i)
    PyList_SET_ITEM(list, i, to_torch(nullptr, PyList_GET_ITEM(arrays, i)));
  return list;
}

PyTypeObject make_type(const char* name, Py_ssize_t size, destructor dealloc) {
  PyTypeObject type = {PyVarObject_HEAD_INIT(nullptr, 0)};
  type.tp_name = name;
  type.tp_basicsize = size;
  type.tp_dealloc = dealloc;
  type.tp_flags = Py_TPFLAGS_DEFAULT;
  return type;
}

struct Base {
  PyObject_HEAD c10::StorageImpl* storage;
};

void drop_base(PyObject* self) {
  c10::raw::intrusive_ptr::decref(reinterpret_cast<Base*>(self)->storage);
  PyObject_Free(self);
}

PyTypeObject g_base = make_type("floor.Base", sizeof(Base), drop_base);

// An array over the memory of a float32 tensor of rank 2, and a base that holds its storage.
PyObject* to_numpy(PyObject*, PyObject* x) {
  const at::Tensor& tensor = THPVariable_Unpack(x);
  auto* base = PyObject_New(Base, &g_base);
  base->storage = tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
  c10::raw::intrusive_ptr::incref(base->storage);
  npy_intp extents[] = {tensor.size(0), tensor.size(1)};
  PyObject* array =
      PyArray_New(&PyArray_Type, 2, extents, NPY_FLOAT, nullptr,
                  const_cast<void*>(tensor.const_data_ptr()), 0, NPY_ARRAY_CARRAY, nullptr);
  PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array), reinterpret_cast<PyObject*>(base));
  return array;
}

// What a consumer reads without asking the source again: as in a DLTensor, and the arrays of it.
struct Handle {
  PyObject_HEAD PyObject* array;  // null: the storage holds the memory
  c10::StorageImpl* storage;
  void* data;
  int64_t shape[8];
  int64_t strides[8];
  int32_t device[2];
  int32_t ndim;
  int32_t dtype;
};

void drop_handle(PyObject* self) {
  auto* handle = reinterpret_cast<Handle*>(self);
  if (handle->array != nullptr)
    Py_DECREF(handle->array);
  else
    c10::raw::intrusive_ptr::decref(handle->storage);
  PyObject_Free(self);
}

PyTypeObject g_handle = make_type("floor.Handle", sizeof(Handle), drop_handle);

// One object with a description, whose shape and strides are copied, and one reference.
PyObject* from_array(PyObject*, PyObject* x) {
  auto* array = reinterpret_cast<PyArrayObject*>(x);
  auto* handle = PyObject_New(Handle, &g_handle);
  handle->array = Py_NewRef(x);
  handle->data = PyArray_DATA(array);
  handle->device[0] = 1;
  handle->device[1] = 0;
  handle->ndim = PyArray_NDIM(array);
  handle->dtype = PyArray_TYPE(array);
  for (int i = 0; i < handle->ndim; ++i) {
    handle->shape[i] = PyArray_DIM(array, i);
    handle->strides[i] = PyArray_STRIDE(array, i) / static_cast<npy_intp>(sizeof(float));
  }
  return reinterpret_cast<PyObject*>(handle);
}

PyObject* from_tensor(PyObject*, PyObject* x) {
  const c10::TensorImpl& tensor = *THPVariable_Unpack(x).unsafeGetTensorImpl();
  auto* handle = PyObject_New(Handle, &g_handle);
  handle->array = nullptr;
  handle->storage = tensor.unsafe_storage().unsafeGetStorageImpl();
  c10::raw::intrusive_ptr::incref(handle->storage);
  handle->data = const_cast<void*>(tensor.data());
  handle->device[0] = 1;
  handle->device[1] = 0;
  handle->ndim = static_cast<int32_t>(tensor.dim());
  handle->dtype = static_cast<int32_t>(c10::typeMetaToScalarType(tensor.dtype()));
  for (int i = 0; i < handle->ndim; ++i) {
    handle->shape[i] = tensor.sizes()[i];
    handle->strides[i] = tensor.strides()[i];
  }
  return reinterpret_cast<PyObject*>(handle);
}

PyMethodDef g_functions[] = {{"to_torch", to_torch, METH_O, nullptr},
                             {"to_torch_list", to_torch_list, METH_O, nullptr},
                             {"to_numpy", to_numpy, METH_O, nullptr},
                             {"from_array", from_array, METH_O, nullptr},
                             {"from_tensor", from_tensor, METH_O, nullptr},
                             {nullptr, nullptr, 0, nullptr}};
PyModuleDef g_module = {PyModuleDef_HEAD_INIT, "floor", nullptr, -1, g_functions};

}  // namespace

PyMODINIT_FUNC PyInit_floor() {
  import_array();
  if (PyType_Ready(&g_base) < 0 || PyType_Ready(&g_handle) < 0) return nullptr;
  return PyModule_Create(&g_module);
}
