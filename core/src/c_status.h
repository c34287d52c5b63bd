// How the C ABI answers: exceptions become statuses, and what was wrong is kept for the thread.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "dlbridge/c_api.h"
#include "dlbridge/error.h"

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
dlb_status record_current_exception() noexcept;

/// Fills all of `error` but its struct_size with the thread's last error.
void read_last_error(dlb_error& error) noexcept;

/// Runs `action`; whatever it throws becomes a status.
template <typename Action>
dlb_status guarded(Action&& action) noexcept {
  try {
    std::forward<Action>(action)();
    return DLBRIDGE_OK;
  } catch (...) {
    return record_current_exception();
  }
}

/// Copies what fits of `text` into `buffer` (`capacity` bytes), always with a zero byte at the end.
void write_text(std::string_view text, char* buffer, size_t capacity) noexcept;

/// Throws invalid_argument where `pointer` is null.
template <typename T>
T& required(T* pointer, const char* field) {
  if (pointer == nullptr)
    throw Error(ErrorCode::invalid_argument, field,
                std::string(field) + " is null; expected a pointer to it");
  return *pointer;
}

/// Throws invalid_argument where `value` is not in [0, limit].
void require_range(int64_t value, int64_t limit, const char* field);

/// Throws unless `size`, a struct's first field, is at least `first_version` and all bytes beyond
/// `known` are zero.
void check_size(const void* data, size_t size, size_t first_version, size_t known,
                const char* type);

/// The caller's struct, its size checked. `first_version` is its size in version 1 of the ABI.
template <typename T>
T& sized(T* data, size_t first_version, const char* type) {
  T& checked = required(data, type);
  check_size(data, checked.struct_size, first_version, sizeof(T), type);
  return checked;
}

}  // namespace dlbridge::c_api
