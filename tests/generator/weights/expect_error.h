#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "data/core/error.h"

namespace quarry::test {

// Expects `action` to throw quarry::Error with this code and a message that holds `part`.
template <typename Action>
void expect_error(ErrorCode code, const std::string& part, const Action& action) {
  try {
    action();
    ADD_FAILURE() << "nothing was thrown, wanted an Error with: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(error_code_name(e.code()), std::string(error_code_name(code))) << e.what();
    EXPECT_THAT(e.what(), ::testing::HasSubstr(part));
  }
}

}  // namespace quarry::test
