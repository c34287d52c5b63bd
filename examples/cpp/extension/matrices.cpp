// SPDX-License-Identifier: Apache-2.0
// A Python extension module that takes a matrix of any framework, and returns a dlbridge.Tensor
// over C++ memory. It links the core only: the Python package dlbridge knows NumPy, torch and JAX.
//
//     matrices.diagonal(x)     the diagonal of x, over the memory of x
//     matrices.row_sums(x)     the sums of the rows of x, in new memory
#include <nanobind/nanobind.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "dlbridge/error.h"
#include "dlbridge/managed_tensor.h"

namespace nb = nanobind;

namespace {

constexpr const char* kCapsule = "dltensor_versioned";
constexpr const char* kUsedCapsule = "used_dltensor_versioned";

// Takes x: an ndarray, a torch tensor, a dlbridge.Tensor, a capsule, an object with __dlpack__.
// from_dlpack refuses what cannot be shared; its handle exports a versioned capsule. Renaming the
// capsule takes its content.
dlbridge::Loan take_matrix(const nb::object& x) {
  const nb::object tensor = nb::module_::import_("dlbridge").attr("from_dlpack")(x);
  const nb::object capsule =
      tensor.attr("__dlpack__")(nb::arg("max_version") = nb::make_tuple(1, 3));
  void* managed = PyCapsule_GetPointer(capsule.ptr(), kCapsule);
  if (managed == nullptr || PyCapsule_SetName(capsule.ptr(), kUsedCapsule) != 0)
    throw nb::python_error();
  auto owned = dlbridge::ManagedTensor::adopt(static_cast<DLManagedTensorVersioned*>(managed));
  dlbridge::Loan loan = std::move(owned).to_loan();  // validated

  const dlbridge::TensorView& view = loan.view();
  if (view.ndim != 2)
    throw dlbridge::Error(dlbridge::ErrorCode::shape_mismatch, "ndim", "expected a matrix");
  if (!(dlbridge::DType(view.dtype) == dlbridge::DType(DLDataType{kDLFloat, 32, 1})))
    throw dlbridge::Error(dlbridge::ErrorCode::unsupported_dtype, "dtype", "expected float32");
  if (view.device.device_type != kDLCPU)
    throw dlbridge::Error(dlbridge::ErrorCode::unsupported_device, "device", "expected cpu");
  return loan;
}

// Returns a capsule that owns the loan. Its destructor frees the memory if no consumer takes it.
nb::object give(dlbridge::Loan&& loan) {
  dlbridge::ManagedTensor managed(std::move(loan));
  const nb::object capsule = nb::steal(PyCapsule_New(
      const_cast<DLManagedTensorVersioned*>(managed.get()), kCapsule, [](PyObject* self) {
        if (!PyCapsule_IsValid(self, kCapsule)) return;  // renamed: its consumer owns
        dlbridge::ManagedTensor::adopt(
            static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(self, kCapsule)));
      }));
  if (!capsule) throw nb::python_error();
  (void)managed.release();  // the capsule owns
  return nb::module_::import_("dlbridge").attr("from_dlpack")(capsule);
}

nb::object diagonal(const nb::object& x) {
  dlbridge::Loan matrix = take_matrix(x);
  const int64_t* shape = matrix.shape();
  const int64_t* strides = matrix.strides();
  const int64_t extent = std::min(shape[0], shape[1]);
  const int64_t stride = strides[0] + strides[1];

  dlbridge::TensorView view = matrix.view();  // address, dtype, read-only or not
  view.ndim = 1;
  view.shape = &extent;
  view.strides = &stride;
  dlbridge::Loan line;
  line.describe(view);
  line.attach(matrix.release_deleter());
  return give(std::move(line));
}

nb::object row_sums(const nb::object& x) {
  const dlbridge::Loan matrix = take_matrix(x);
  const dlbridge::TensorView& view = matrix.view();
  auto sums = std::make_unique<std::vector<float>>(static_cast<size_t>(view.shape[0]));
  for (int64_t row = 0; row < view.shape[0]; ++row) {
    const float* element = static_cast<const float*>(view.data) + row * view.strides[0];
    float& sum = (*sums)[static_cast<size_t>(row)];
    for (int64_t i = 0; i < view.shape[1]; ++i, element += view.strides[1]) sum += *element;
  }

  dlbridge::Loan loan;
  loan.set_rank(1);
  loan.shape()[0] = view.shape[0];
  loan.strides()[0] = 1;
  loan.view().data = sums->data();
  loan.view().dtype = view.dtype;
  loan.attach({sums.release(),
               [](void* context) noexcept { delete static_cast<std::vector<float>*>(context); }});
  return give(std::move(loan));
}

}  // namespace

NB_MODULE(matrices, module) {
  // A refusal becomes the package's own exception, with code and field.
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const dlbridge::Error& error) {
      const nb::object type = nb::module_::import_("dlbridge").attr("ExchangeError");
      const std::string code(dlbridge::name(error.code()));
      const nb::object raised = type(error.what(), code.c_str(), error.field().c_str());
      PyErr_SetObject(type.ptr(), raised.ptr());
    }
  });
  module.def("diagonal", &diagonal, nb::arg("x"));
  module.def("row_sums", &row_sums, nb::arg("x"));
}
