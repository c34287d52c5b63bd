// How the C ABI answers: what core alone needs of it. The rest is in dlbridge/c_boundary.h.
#pragma once

#include <string>
#include <utility>

#include "dlbridge/c_boundary.h"

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

/// Fills all of `error` but its struct_size with the thread's last error.
void read_last_error(dlb_error& error) noexcept;

}  // namespace dlbridge::c_api
