// SPDX-License-Identifier: Apache-2.0
// ManagedTensor: owns a DLManagedTensorVersioned that crosses a boundary (a capsule, a C ABI,
// another library). Conversions between it, the legacy struct and a Loan.
//
// adopt takes raw ownership, release returns it. On success the callee owns; when a function
// throws, the caller still owns, and the producer's deleter was not called.
#pragma once

#include <utility>

#include "dlbridge/dlpack.h"
#include "dlbridge/export.h"
#include "dlbridge/loan.h"

namespace dlbridge {

/// Validates and describes a foreign versioned tensor without taking it. Throws Error
/// (null_descriptor, unsupported_version, and all of read_descriptor). Of a foreign major version
/// only the version is read.
DLBRIDGE_API void describe_managed(const DLManagedTensorVersioned* managed, Loan& loan);
/// The same for the legacy struct, which cannot say whether it is read-only: Access::unknown.
DLBRIDGE_API void describe_managed(const DLManagedTensor* managed, Loan& loan);

/// Owns `managed`: calls its deleter, if it has one.
DLBRIDGE_API Deleter deleter_of(DLManagedTensorVersioned* managed) noexcept;
DLBRIDGE_API Deleter deleter_of(DLManagedTensor* managed) noexcept;

/// Moves `loan` into a fresh descriptor, one allocation for descriptor, shape and strides. The
/// caller owns the result and calls its deleter. Strides are never null. Throws std::bad_alloc; the
/// loan then keeps its deleter.
DLBRIDGE_API DLManagedTensorVersioned* to_managed(Loan&& loan);
/// The same as a legacy struct, which has no flags. Throws Error: read_only where the memory may
/// not be written (docs/reference/rules.md#32), and as require_no_padding. Access::unknown stays
/// unknown.
DLBRIDGE_API DLManagedTensor* to_managed_legacy(Loan&& loan);

/// Throws Error (unsupported_dtype) where elements below a byte are padded: a descriptor without
/// flags (the legacy struct, a bare DLTensor) would say that they are packed.
DLBRIDGE_API void require_no_padding(const TensorView& view);

/// Move-only owner of a DLManagedTensorVersioned. Thread: one at a time; the deleter runs on any.
class ManagedTensor {
 public:
  ManagedTensor() noexcept = default;
  explicit ManagedTensor(Loan&& loan) : managed_(to_managed(std::move(loan))) {}
  ManagedTensor(ManagedTensor&& other) noexcept : managed_(other.release()) {}
  ManagedTensor& operator=(ManagedTensor&& other) noexcept {
    if (this != &other) {
      reset();
      managed_ = other.release();
    }
    return *this;
  }
  ManagedTensor(const ManagedTensor&) = delete;
  ManagedTensor& operator=(const ManagedTensor&) = delete;
  ~ManagedTensor() { reset(); }

  /// Owns `managed`.
  static ManagedTensor adopt(DLManagedTensorVersioned* managed) noexcept {
    ManagedTensor tensor;
    tensor.managed_ = managed;
    return tensor;
  }

  /// Moves ownership to the caller, who calls the deleter.
  [[nodiscard]] DLManagedTensorVersioned* release() noexcept {
    return std::exchange(managed_, nullptr);
  }

  /// Calls the deleter, if there is one. A foreign descriptor may have none
  /// (docs/reference/rules.md#53).
  void reset() noexcept {
    if (DLManagedTensorVersioned* managed = release(); managed != nullptr && managed->deleter)
      managed->deleter(managed);
  }

  const DLManagedTensorVersioned* get() const noexcept { return managed_; }
  explicit operator bool() const noexcept { return managed_ != nullptr; }

  /// Validates and moves into a Loan. Throws as describe_managed; this object then still owns.
  Loan to_loan() && {
    Loan loan;
    describe_managed(managed_, loan);
    loan.attach(deleter_of(release()));
    return loan;
  }

 private:
  DLManagedTensorVersioned* managed_ = nullptr;
};

}  // namespace dlbridge
