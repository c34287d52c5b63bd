// SPDX-License-Identifier: Apache-2.0
// What the tests of the C ABI share: structs with their size set, and looks at the last error.
#pragma once

#include "dlbridge/c_api.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <string>

namespace dlbridge::test {

/// A struct of the ABI, its size set, everything else zero.
template <typename T>
T sized() {
  T value{};
  value.struct_size = sizeof(T);
  return value;
}

/// What the calling thread's last failing call left.
inline dlb_error last_error() {
  auto error = sized<dlb_error>();
  EXPECT_EQ(dlb_last_error(&error), DLBRIDGE_OK);
  return error;
}

/// Fails the test unless the call ended with `status` and the thread's last error says
/// the same.
inline void expect_failure(dlb_status found, dlb_status status, const std::string& code,
                           const std::string& field) {
  EXPECT_EQ(found, status);
  const dlb_error error = last_error();
  EXPECT_EQ(error.status, status);
  EXPECT_EQ(error.code, code) << error.message;
  EXPECT_EQ(error.field, field) << error.message;
  EXPECT_NE(std::string(error.message), "");
}

inline void expect_invalid(dlb_status found, const std::string& field) {
  expect_failure(found, DLBRIDGE_INVALID_ARGUMENT, "invalid_argument", field);
}

#define ASSERT_OK(call) ASSERT_EQ(call, DLBRIDGE_OK) << ::dlbridge::test::last_error().message
#define EXPECT_OK(call) EXPECT_EQ(call, DLBRIDGE_OK) << ::dlbridge::test::last_error().message

/// A pointer that is not null, for what a failing call must set to null.
template <typename T>
T* poison() {
  static std::max_align_t memory;
  return reinterpret_cast<T*>(&memory);
}

}  // namespace dlbridge::test
