// SPDX-License-Identifier: Apache-2.0
// What every function of the C ABI does around its one call, for the modules that add functions to
// it. Exceptions become statuses and are kept for the thread, where dlb_last_error() finds them.
//
// Thread: any.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "dlbridge/c_api.h"
#include "dlbridge/error.h"
#include "dlbridge/export.h"
#include "dlbridge/loan.h"

namespace dlbridge::c_api {

/// An Error whose status does not follow from its code.
class StatusError : public Error {
 public:
  StatusError(dlb_status status, std::string field, std::string message)
      : Error(ErrorCode::invalid_argument, std::move(field), std::move(message)), status_(status) {}
  dlb_status status() const noexcept { return status_; }

 private:
  dlb_status status_;
};

/// Keeps the exception that is being handled as the thread's last error; returns its status.
/// Allocates nothing. Requires: called from a catch block.
DLBRIDGE_API dlb_status record_current_exception() noexcept;

/// Runs `action`; an exception becomes a status.
template <typename Action>
dlb_status guarded(Action&& action) noexcept {
  try {
    std::forward<Action>(action)();
    return DLBRIDGE_OK;
  } catch (...) {
    return record_current_exception();
  }
}

/// Throws invalid_argument where `pointer` is null.
template <typename T>
T& required(T* pointer, const char* field) {
  if (pointer == nullptr)
    throw Error(ErrorCode::invalid_argument, field,
                std::string(field) + " is null; expected a pointer to it");
  return *pointer;
}

/// Sets the caller's `out` to null, then to what `make` returns.
template <typename T, typename Make>
dlb_status make_into(T** out, const char* field, Make&& make) noexcept {
  return guarded([&] {
    required(out, field) = nullptr;
    *out = make();
  });
}

/// Throws invalid_argument where `value` is not in [0, limit].
DLBRIDGE_API void require_range(int64_t value, int64_t limit, const char* field);

/// Throws unless `size`, a struct's first field, is at least `known` and all bytes beyond `known`
/// are zero.
DLBRIDGE_API void check_size(const void* data, size_t size, size_t known, const char* type);

/// The caller's struct, its size checked.
template <typename T>
T& sized(T* data, const char* type) {
  T& checked = required(data, type);
  check_size(data, checked.struct_size, sizeof(T), type);
  return checked;
}

/// Copies what fits of `text` into `buffer` (`capacity` bytes) and ends it with a zero byte.
DLBRIDGE_API void write_text(std::string_view text, char* buffer, size_t capacity) noexcept;

/// A handle over the loan's memory. Owns: the caller drops one reference with dlb_tensor_release.
/// Throws std::bad_alloc; the loan then keeps its deleter.
[[nodiscard]] DLBRIDGE_API dlb_tensor* make_handle(Loan&& loan);

/// A loan over the handle's memory with a reference of its own. Throws Error (invalid_argument) for
/// null, std::bad_alloc.
[[nodiscard]] DLBRIDGE_API Loan share_handle(dlb_tensor* tensor, const char* field);

}  // namespace dlbridge::c_api
