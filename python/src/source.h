// Source: any object that a conversion may start from, opened: its adapter found, its memory
// described.
#pragma once

#include <Python.h>

#include "adapter.h"
#include "reference.h"

namespace dlbridge::python {

class Source {
 public:
  Source() noexcept = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  ~Source() {
    if (!capsule_ && !loan_.has_owner()) [[likely]]
      return;
    const PendingException aside;
    loan_.reset();
    capsule_ = Reference();
  }

  /// Finds the adapter and describes `x` (borrowed: it outlives this). Objects that only have
  /// __dlpack__ are asked for a capsule here; it goes back to its producer unless lend() takes it.
  /// False with a Python exception set.
  bool open(PyObject* x) noexcept;

  const TensorView& view() const noexcept { return loan_.view(); }
  const Adapter& adapter() const noexcept { return *adapter_; }
  PyObject* object() const noexcept { return object_; }

  /// Makes the loan an owning one. False with a Python exception set.
  bool lend() noexcept;
  Loan& loan() noexcept { return loan_; }

 private:
  bool describe() noexcept;

  const Adapter* adapter_ = nullptr;
  PyObject* object_ = nullptr;
  Reference capsule_;
  Loan loan_;
};

}  // namespace dlbridge::python
