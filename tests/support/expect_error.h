#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "data/core/error.h"

namespace quarry::test {

// Expects that action() throws an Error of this code whose sentence holds `message`.
template <typename Action>
void expect_error(const Action& action, ErrorCode code, const std::string& message) {
  try {
    action();
    FAIL() << "no error, wanted: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), testing::HasSubstr(message));
  }
}

}  // namespace quarry::test
