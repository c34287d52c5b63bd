#include "dlbridge/error.h"

#include <utility>

namespace dlbridge {

std::string_view name(ErrorCode code) noexcept {
  switch (code) {
#define DLBRIDGE_X(code, ...) \
  case ErrorCode::code:       \
    return #code;
    DLBRIDGE_REASON_CODES(DLBRIDGE_X)
    DLBRIDGE_OTHER_CODES(DLBRIDGE_X)
#undef DLBRIDGE_X
    case ErrorCode::reason_count_:
    case ErrorCode::first_other_:
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
