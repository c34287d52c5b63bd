// Source: any object that a conversion may start from, opened: its adapter found, its memory
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

  /// Finds the adapter and describes `x` (borrowed: it outlives this). Objects that only have
  /// __dlpack__ are asked for a capsule here; it goes back to its producer unless acquire() takes
  /// it. False with a Python exception set.
  bool open(PyObject* x) noexcept;

  /// Before open(): the stream that a producer on a GPU is to put its work in front of.
  void prefer_stream(intptr_t stream) noexcept { stream_ = stream; }
  /// The stream that was found for a device, for sources that are taken together.
  struct CommonStream {
    int32_t device = -1;
    intptr_t stream = 0;
  };
  /// Before open(): where no stream is preferred, all sources with the same `common` share one.
  void share_stream(CommonStream& common) noexcept { common_ = &common; }

  const TensorView& view() const noexcept { return loan_.view(); }
  const Adapter& adapter() const noexcept { return *adapter_; }
  PyObject* object() const noexcept { return object_; }

  /// The stream behind which elements on a device are, as the producer said; 0 where it did not.
  intptr_t stream() const noexcept { return stream_; }
  /// From here on its memory is taken as what the host may read. Requires: managed memory that the
  /// host shares.
  void take_as_host() noexcept {
    managed_by_ = loan_.view().device.device_id;
    loan_.view().device = Device(DeviceType::cpu);
  }
  /// The device that manages memory which was taken as the host's, or -1.
  int32_t managed_by() const noexcept { return managed_by_; }

  /// Makes the loan an owning one. False with a Python exception set.
  bool acquire() noexcept;
  Loan& loan() noexcept { return loan_; }
  const Loan& loan() const noexcept { return loan_; }

 private:
  bool describe() noexcept;
  bool open_by_protocol(PyObject* x) noexcept;
  bool ask_for_stream(PyObject* x) noexcept;

  const Adapter* adapter_ = nullptr;
  PyObject* object_ = nullptr;
  Reference capsule_;
  Loan loan_;
  intptr_t stream_ = 0;
  CommonStream* common_ = nullptr;
  int32_t managed_by_ = -1;
};

}  // namespace dlbridge::python
