#include "data/core/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quarry {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

TEST(Error, ALongValueLosesItsMiddle) {
  const Error error(ErrorCode::kCorruptData,
                    "x.json: found " + std::string(100000, 'y') + ", wanted z");
  const std::string message = error.what();
  EXPECT_LE(message.size(), 2000U);
  EXPECT_THAT(message, StartsWith("x.json: found yyy"));
  EXPECT_THAT(message, EndsWith("yyy, wanted z"));
  EXPECT_EQ(shortened_message(std::string(2000, 'y')), std::string(2000, 'y'));
}

TEST(Error, CharactersStayWhole) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "\u20ac";
  for (int shift = 0; shift < 3; ++shift) {
    const std::string message = shortened_message(text);
    const size_t cut = message.find(" ... ");
    ASSERT_NE(cut, std::string::npos);
    EXPECT_EQ((cut - static_cast<size_t>(shift)) % 3, 0U);
    EXPECT_EQ((message.size() - cut - 5) % 3, 0U);
    text.insert(0, "x");
  }
}

TEST(Error, ASourceIsNamedInFront) {
  try {
    naming_source("x.gguf", [] { throw_error(ErrorCode::kNotFound, "no y"); });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_STREQ(error.what(), "x.gguf: no y");
  }
  EXPECT_EQ(naming_source("x.gguf", [] { return 3; }), 3);
}

}  // namespace
}  // namespace quarry
