// SPDX-License-Identifier: Apache-2.0
#include "exports.h"

#include <utility>

namespace dlbridge::python_sim {
namespace nb = nanobind;
namespace {

template <typename Managed>
struct Export {
  Managed managed{};
  Description description;
  std::shared_ptr<Ledger> ledger;

  static void drop(Managed* managed) {
    auto* self = static_cast<Export*>(managed->manager_ctx);
    const std::shared_ptr<Ledger> ledger = std::move(self->ledger);
    delete self;
    ledger->release();
  }
};

template <typename Managed>
constexpr const char* kName = "dltensor";
template <>
constexpr const char* kName<DLManagedTensorVersioned> = "dltensor_versioned";

// Of a capsule that was not consumed.
template <typename Managed>
void destroy(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, kName<Managed>) == 0) return;
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, kName<Managed>));
  managed->deleter(managed);
}

template <typename Managed>
nb::object make(const std::shared_ptr<Ledger>& ledger, Description description) {
  auto made = std::make_unique<Export<Managed>>();
  made->description = std::move(description);
  made->ledger = ledger;
  Description& kept = made->description;
  Managed& managed = made->managed;
  if constexpr (std::is_same_v<Managed, DLManagedTensorVersioned>) {
    managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
    managed.flags = kept.flags;
  }
  DLTensor& tensor = managed.dl_tensor;
  tensor.data = reinterpret_cast<void*>(kept.data);
  tensor.device = kept.device;
  tensor.ndim = static_cast<int32_t>(kept.shape.size());
  tensor.dtype = kept.dtype;
  tensor.shape = kept.shape.data();
  tensor.strides = kept.has_strides ? kept.strides.data() : nullptr;
  tensor.byte_offset = kept.byte_offset;
  managed.manager_ctx = made.get();
  managed.deleter = &Export<Managed>::drop;
  PyObject* capsule = PyCapsule_New(&managed, kName<Managed>, destroy<Managed>);
  if (capsule == nullptr) throw nb::python_error();
  made.release();
  ledger->acquire();
  return nb::steal(capsule);
}

}  // namespace

Ledger::~Ledger() {
  if (!callback_.is_valid()) return;
  if (Py_IsInitialized() == 0) {
    callback_.release();
    return;
  }
  const nb::gil_scoped_acquire gil;
  callback_.reset();
}

void Ledger::release() {
  if (callback_.is_valid() && Py_IsInitialized() != 0) {
    const nb::gil_scoped_acquire gil;
    PyObject* answer = PyObject_CallNoArgs(callback_.ptr());
    if (answer == nullptr) PyErr_WriteUnraisable(callback_.ptr());
    Py_XDECREF(answer);
  }
  if (++released_ != exported_ || memory_ == 0 || freed_.exchange(true)) return;
  if (const auto simulator = simulator_.lock()) {
    simulator->device_free(reinterpret_cast<void*>(memory_));
  }
}

void Ledger::free_on_release(const std::shared_ptr<cuda_sim::Simulator>& simulator,
                             uintptr_t memory) {
  simulator_ = simulator;
  memory_ = memory;
}

nb::object to_capsule(const std::shared_ptr<Ledger>& ledger, Description description,
                      bool versioned) {
  return versioned ? make<DLManagedTensorVersioned>(ledger, std::move(description))
                   : make<DLManagedTensor>(ledger, std::move(description));
}

}  // namespace dlbridge::python_sim
