// Error: the one exception type of dlbridge, and the codes that plans and errors share.
//
// A code says what is wrong, `field` says where, what() says what was found, what was expected and
// which call works. The codes below 64 can stand in a plan's ReasonSet; their order is their
// precedence: the first one that applies is the one an error reports.
#pragma once

#include <bit>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

#include "dlbridge/export.h"

namespace dlbridge {

// X(code, field, remedy): remedy is what heals the condition.
//   never   no copy remedies it: it is a kind of object or a promise, not a layout
//   copy    a named copy remedies it (copy=None, copy=True), and so does a named cast or staging
//   dtype   only a named dtype= remedies it
//   device  only a named device= remedies it
#define DLBRIDGE_REASON_CODES(X)              \
  X(undefined_tensor, "tensor", never)        \
  X(masked_array, "type", never)              \
  X(writeback_if_copy, "flags", never)        \
  X(sparse_layout, "layout", never)           \
  X(nested_tensor, "layout", never)           \
  X(quantized_tensor, "dtype", never)         \
  X(mkldnn_layout, "layout", never)           \
  X(fake_tensor, "type", never)               \
  X(functorch_tensor, "type", never)          \
  X(functional_tensor, "type", never)         \
  X(meta_tensor, "device", never)             \
  X(unsupported_keys, "dispatch keys", never) \
  X(symbolic_shape, "shape", never)           \
  X(storage_inaccessible, "storage", never)   \
  X(storage_too_small, "storage", never)      \
  X(requires_grad, "requires_grad", never)    \
  X(copy_forbidden, "copy", never)            \
  X(unsupported_device, "device", never)      \
  X(no_staging, "device", never)              \
  X(device_not_named, "device", device)       \
  X(unsupported_dtype, "dtype", dtype)        \
  X(missing_ml_dtypes, "dtype", dtype)        \
  X(too_many_dimensions, "ndim", never)       \
  X(float4_odd_extent, "shape", never)        \
  X(float4_packing, "dtype", copy)            \
  X(packed_subbyte, "dtype", never)           \
  X(byte_order, "dtype", copy)                \
  X(stride_not_multiple, "strides", copy)     \
  X(negative_stride, "strides", copy)         \
  X(overlap, "strides", copy)                 \
  X(misaligned, "data", copy)                 \
  X(conj_bit, "conj", copy)                   \
  X(neg_bit, "neg", copy)                     \
  X(zero_tensor, "zero", copy)                \
  X(copy_on_write, "storage", copy)           \
  X(read_only, "flags", copy)

// Codes of errors that no plan gives: arguments, foreign descriptors, the environment.
#define DLBRIDGE_OTHER_CODES(X) \
  X(invalid_argument)           \
  X(invalid_device)             \
  X(invalid_dtype)              \
  X(unsupported_type)           \
  X(shape_mismatch)             \
  X(out_of_memory)              \
  X(adapter_unavailable)        \
  X(framework_error)            \
  X(capsule_name)               \
  X(capsule_used)               \
  X(unsupported_version)        \
  X(null_descriptor)            \
  X(invalid_ndim)               \
  X(null_shape)                 \
  X(negative_extent)            \
  X(extent_overflow)            \
  X(stride_overflow)            \
  X(unknown_dtype)              \
  X(unknown_device)             \
  X(null_data)                  \
  X(address_overflow)           \
  X(no_driver)                  \
  X(driver_too_old)             \
  X(no_device)                  \
  X(stream_invalid)             \
  X(stream_capturing)           \
  X(device_failed)              \
  X(after_fork)                 \
  X(python_exception)

/// What can be wrong. Spelled the same in `ExchangeError.code`.
enum class ErrorCode : uint8_t {
#define DLBRIDGE_X(code, ...) code,
  DLBRIDGE_REASON_CODES(DLBRIDGE_X)
#undef DLBRIDGE_X
      reason_count_,
  first_other_ = 63,
#define DLBRIDGE_X(code) code,
  DLBRIDGE_OTHER_CODES(DLBRIDGE_X)
#undef DLBRIDGE_X
};
static_assert(static_cast<int>(ErrorCode::reason_count_) < 63);

/// The code's name as it stands in the enum ("negative_stride").
DLBRIDGE_API std::string_view name(ErrorCode code) noexcept;

/// A set of the codes that can be reasons of a plan: one word, no allocation.
class ReasonSet {
 public:
  constexpr ReasonSet() noexcept = default;
  constexpr ReasonSet(ErrorCode code) noexcept : bits_(uint64_t{1} << static_cast<int>(code)) {}

  constexpr bool empty() const noexcept { return bits_ == 0; }
  constexpr bool has(ErrorCode code) const noexcept { return !(*this & code).empty(); }
  /// The reason of highest precedence. Requires: not empty.
  constexpr ErrorCode first() const noexcept {
    return static_cast<ErrorCode>(std::countr_zero(bits_));
  }
  constexpr void add(ReasonSet other) noexcept { bits_ |= other.bits_; }
  constexpr ReasonSet without(ReasonSet other) const noexcept {
    ReasonSet rest;
    rest.bits_ = bits_ & ~other.bits_;
    return rest;
  }

  friend constexpr ReasonSet operator|(ReasonSet a, ReasonSet b) noexcept {
    a.bits_ |= b.bits_;
    return a;
  }
  friend constexpr ReasonSet operator&(ReasonSet a, ReasonSet b) noexcept {
    a.bits_ &= b.bits_;
    return a;
  }
  friend constexpr bool operator==(ReasonSet a, ReasonSet b) noexcept = default;

 private:
  uint64_t bits_ = 0;
};

/// Thrown by everything in dlbridge that can fail. Thread: a value, shared like any other.
class DLBRIDGE_API Error : public std::exception {
 public:
  Error(ErrorCode code, std::string field, std::string message);
  ~Error() override;
  Error(const Error&);
  Error& operator=(const Error&);

  ErrorCode code() const noexcept { return code_; }
  const std::string& field() const noexcept { return field_; }
  const char* what() const noexcept override;

 private:
  ErrorCode code_;
  std::string field_;
  std::string message_;
};

}  // namespace dlbridge
