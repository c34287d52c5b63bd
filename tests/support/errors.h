// SPDX-License-Identifier: Apache-2.0
// Catching a dlbridge::Error by value, so that a test can look at its code, field and text.
#pragma once

#include <gtest/gtest.h>

#include <optional>

#include "dlbridge/error.h"

namespace dlbridge::test {

/// The Error that `action` throws; nothing if it does not throw. Other exceptions pass.
template <typename Action>
std::optional<Error> error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

/// Fails the test unless `action` throws an Error with `code`.
template <typename Action>
void expect_error(ErrorCode code, Action&& action) {
  const std::optional<Error> error = error_of(std::forward<Action>(action));
  ASSERT_TRUE(error.has_value()) << "expected " << name(code) << ", nothing was thrown";
  EXPECT_EQ(name(error->code()), name(code)) << error->what();
}

}  // namespace dlbridge::test
