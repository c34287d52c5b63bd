// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/error.h"

#include <utility>

namespace dlbridge {

std::string_view name(ErrorCode code) noexcept {
  switch (code) {
#define DLBRIDGE_REASON(code, ...) \
  case ErrorCode::code:            \
    return #code;
#define DLBRIDGE_OTHER DLBRIDGE_REASON
#include "dlbridge/detail/reasons.def"
    case ErrorCode::reason_count_:
    case ErrorCode::last_reason_:
      break;
  }
  return "unknown";
}

Error::Error(ErrorCode code, std::string field, std::string message)
    : code_(code), field_(std::move(field)), message_(std::move(message)) {}
Error::Error(const Error&) = default;
Error& Error::operator=(const Error&) = default;

// The key functions: one type_info and one vtable in libdlbridge, so that a catch works across
// libraries.
Error::~Error() = default;
const char* Error::what() const noexcept { return message_.c_str(); }

}  // namespace dlbridge
