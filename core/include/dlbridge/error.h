// SPDX-License-Identifier: Apache-2.0
// Error: the one exception type of dlbridge, and the codes that plans and errors share.
//
// A code says what is wrong, `field` says where, what() says what was found, what was expected and
// which call works. The codes below reason_count_ can stand in a plan's ReasonSet; their order is
// their precedence: an error reports the first one that applies.
#pragma once

#include <bit>
#include <cassert>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

#include "dlbridge/export.h"

namespace dlbridge {

/// What can be wrong: docs/reference/errors.md. Spelled the same in `ExchangeError.code`.
enum class ErrorCode : uint8_t {
#define DLBRIDGE_REASON(code, ...) code,
#include "dlbridge/detail/reasons.def"
  reason_count_,
  last_reason_ = 63,
#define DLBRIDGE_OTHER(code, ...) code,
#include "dlbridge/detail/reasons.def"
};
static_assert(ErrorCode::reason_count_ <= ErrorCode::last_reason_);

/// The code's name as it stands in the enum ("negative_stride").
DLBRIDGE_API std::string_view name(ErrorCode code) noexcept;

/// A set of the codes that can be reasons of a plan: one word, no allocation.
class ReasonSet {
 public:
  constexpr ReasonSet() noexcept = default;
  /// Requires: the code of a reason.
  constexpr ReasonSet(ErrorCode code) noexcept : bits_(uint64_t{1} << static_cast<int>(code)) {
    assert(code < ErrorCode::reason_count_);
  }

  constexpr bool empty() const noexcept { return bits_ == 0; }
  constexpr bool has(ErrorCode code) const noexcept { return !(*this & code).empty(); }
  /// The reason of highest precedence. Requires: not empty.
  constexpr ErrorCode first() const noexcept {
    assert(!empty());
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
