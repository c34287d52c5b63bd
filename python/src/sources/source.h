// SPDX-License-Identifier: Apache-2.0
// Source: the object that a conversion starts from, opened: its adapter found, its memory
// described.
#pragma once

#include <Python.h>

#include "bridge/adapter.h"
#include "support/reference.h"

namespace dlbridge::python {

class Source {
 public:
  Source() noexcept = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  ~Source() {
    if (!capsule_ && !loan_.owns_memory()) [[likely]]
      return;
    const PendingException aside;
    loan_.reset();
    capsule_ = Reference();
  }

  /// Finds the adapter and describes `x`, which is borrowed and outlives this. Objects that only
  /// have __dlpack__ are asked for a capsule here, others are read by NumPy; it is released unless
  /// acquire() takes it.
  /// Throws, also what a producer raises.
  void open(PyObject* x) {
    if (!open_known(x)) [[unlikely]]
      open_slow(x);
  }
  /// The same for an object of an adapter's exact types; returns false for others.
  bool open_known(PyObject* x);
  /// The same for other objects.
  void open_slow(PyObject* x);

  /// Before open(): the stream that a producer on a GPU orders its work before.
  void prefer_stream(intptr_t stream) noexcept { stream_ = stream; }
  /// The stream that was found for a device, for sources that are opened together.
  struct CommonStream {
    int32_t device = -1;
    intptr_t stream = 0;
  };
  /// Before open(): where no stream is preferred, all sources with the same `common` use one.
  void share_stream(CommonStream& common) noexcept { common_ = &common; }

  TensorView& view() noexcept { return loan_.view(); }
  const TensorView& view() const noexcept { return loan_.view(); }
  const Adapter& adapter() const noexcept { return *adapter_; }
  PyObject* object() const noexcept { return object_; }
  /// What open() was given, where a capsule or an array stands for it.
  PyObject* original() const noexcept { return original_ != nullptr ? original_ : object_; }

  /// The stream after which elements on a device are valid; the legacy stream where the producer
  /// did not say. Throws.
  intptr_t stream() const;

  /// Returns true if only the source's own framework can read the elements: its memory does not
  /// hold them as they are (byte order, conj bit, copy-on-write ...).
  bool needs_framework() const noexcept;

  /// From here on the memory counts as the host's. Requires: managed memory that the host shares.
  void take_as_host() noexcept {
    managed_by_ = loan_.view().device.device_id;
    loan_.view().device = Device(DeviceType::cpu);
  }
  /// The device that manages memory which was taken as the host's, or -1.
  int32_t managed_by() const noexcept { return managed_by_; }

  /// Makes the loan an owning one. Throws.
  void acquire() { check(adapter_->acquire(object_, &loan_)); }
  Loan& loan() noexcept { return loan_; }
  const Loan& loan() const noexcept { return loan_; }

 private:
  void open_by_protocol(PyObject* x);
  void open_as_array(PyObject* x);
  void choose_stream(PyObject* x);

  const Adapter* adapter_ = nullptr;
  PyObject* object_ = nullptr;
  PyObject* original_ = nullptr;  // borrowed
  Reference capsule_;             // or the array over a buffer
  ReasonDetail detail_;
  Loan loan_;
  intptr_t stream_ = 0;
  CommonStream* common_ = nullptr;
  int32_t managed_by_ = -1;
};

}  // namespace dlbridge::python
