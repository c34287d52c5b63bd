// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/detail/c_boundary.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <exception>
#include <new>

namespace dlbridge::c_api {
namespace {

// Trivial, so that it can be used while a thread ends.
struct LastError {
  dlb_status status;
  const char* code;
  char field[64];
  char message[1024];
};

thread_local LastError last_error{DLBRIDGE_OK, "", "", ""};

// A struct larger than this is no struct of the ABI: its size was never set.
constexpr size_t kLargestStruct = 4096;

void keep(dlb_status status, const char* code, std::string_view field, std::string_view message) {
  last_error.status = status;
  last_error.code = code;
  write_text(field, last_error.field, sizeof last_error.field);
  write_text(message, last_error.message, sizeof last_error.message);
}

dlb_status status_of(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::invalid_argument:
    case ErrorCode::invalid_device:
    case ErrorCode::invalid_dtype:
    case ErrorCode::stream_invalid:
      return DLBRIDGE_INVALID_ARGUMENT;
    case ErrorCode::out_of_memory:
      return DLBRIDGE_OUT_OF_MEMORY;
    case ErrorCode::unsupported_version:
      return DLBRIDGE_UNSUPPORTED_VERSION;
    case ErrorCode::null_descriptor:
    case ErrorCode::invalid_ndim:
    case ErrorCode::null_shape:
    case ErrorCode::negative_extent:
    case ErrorCode::extent_overflow:
    case ErrorCode::stride_overflow:
    case ErrorCode::unknown_dtype:
    case ErrorCode::unknown_device:
    case ErrorCode::null_data:
    case ErrorCode::address_overflow:
    case ErrorCode::packed_subbyte:  // of a descriptor: gaps between packed elements
      return DLBRIDGE_INVALID_DESCRIPTOR;
    case ErrorCode::no_driver:
    case ErrorCode::driver_too_old:
    case ErrorCode::no_device:
      return DLBRIDGE_UNAVAILABLE;
    case ErrorCode::device_failed:
    case ErrorCode::after_fork:  // neither heals: another process is needed
      return DLBRIDGE_DEVICE_FAILED;
    default:
      return DLBRIDGE_REFUSED;
  }
}

// name() answers with a literal, which ends with a zero byte.
const char* text_of(ErrorCode code) noexcept { return name(code).data(); }

}  // namespace

dlb_status record_current_exception() noexcept {
  assert(std::current_exception() != nullptr);
  try {
    throw;
  } catch (const StatusError& error) {
    keep(error.status(), text_of(error.code()), error.field(), error.what());
  } catch (const Error& error) {
    keep(status_of(error.code()), text_of(error.code()), error.field(), error.what());
  } catch (const std::bad_alloc&) {
    keep(DLBRIDGE_OUT_OF_MEMORY, text_of(ErrorCode::out_of_memory), "memory",
         "memory could not be allocated; free some and call again");
  } catch (const std::exception& error) {
    keep(DLBRIDGE_INTERNAL_ERROR, "internal_error", "", error.what());
  } catch (...) {
    keep(DLBRIDGE_INTERNAL_ERROR, "internal_error", "", "an unknown exception was thrown");
  }
  return last_error.status;
}

void write_text(std::string_view text, char* buffer, size_t capacity) noexcept {
  if (capacity == 0) return;
  const size_t length = std::min(text.size(), capacity - 1);
  std::memcpy(buffer, text.data(), length);
  buffer[length] = '\0';
}

void require_range(int64_t value, int64_t limit, const char* field) {
  if (value >= 0 && value <= limit) return;
  throw Error(ErrorCode::invalid_argument, field,
              std::string(field) + " is " + std::to_string(value) + "; expected 0 to " +
                  std::to_string(limit));
}

void check_size(const void* data, size_t size, size_t known, const char* type) {
  const bool fits = size >= known && size <= kLargestStruct;
  const auto* bytes = static_cast<const unsigned char*>(data);
  if (fits && std::all_of(bytes + known, bytes + size, [](auto byte) { return byte == 0; })) return;
  throw StatusError(DLBRIDGE_WRONG_STRUCT_SIZE, "struct_size",
                    std::string("struct_size of ") + type + " is " + std::to_string(size) +
                        (fits ? ", and bytes beyond the " + std::to_string(known) +
                                    " known here are not zero; expected zero"
                              : "; expected sizeof(" + std::string(type) + "), which is " +
                                    std::to_string(known)));
}

}  // namespace dlbridge::c_api

dlb_status dlb_last_error(dlb_error* error) noexcept {
  using namespace dlbridge::c_api;
  // Not guarded(): reading the last error must not replace it.
  if (error == nullptr) return DLBRIDGE_INVALID_ARGUMENT;
  try {
    sized(error, "dlb_error");
  } catch (const std::exception&) {
    return DLBRIDGE_WRONG_STRUCT_SIZE;
  }
  error->status = last_error.status;
  error->reserved = 0;
  error->code = last_error.code;
  error->field = last_error.field;
  error->message = last_error.message;
  return DLBRIDGE_OK;
}
