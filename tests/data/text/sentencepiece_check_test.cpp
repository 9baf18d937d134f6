#include "data/text/sentencepiece_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>

#include "data/core/error.h"
#include "data/text/sentencepiece_tokenizer.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

// A model whose charsmap turns full-width A into A, A with an acute into its precomposed form and
// some more (tests/fuzz/seeds/make.py).
std::string charsmap_model() {
  std::ifstream file(std::string(QUARRY_SOURCE_DIR) + "/tests/fuzz/seeds/charsmap_unigram.model",
                     std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Length-delimited and shorter than 128 bytes.
std::string field(int number, const std::string& bytes) {
  return std::string(1, static_cast<char>(number << 3 | 2)) +
         std::string(1, static_cast<char>(bytes.size())) + bytes;
}

std::string piece(const std::string& text, float score, int type) {
  std::string bits(4, '\0');
  std::memcpy(bits.data(), &score, 4);
  return field(1, field(1, text) + "\x15" + bits + "\x18" + static_cast<char>(type));
}

void expect_damaged(const std::string& model, const std::string& part) {
  try {
    check_sentencepiece_model(model, "x.model");
    FAIL() << "taken, wanted: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
    EXPECT_THAT(error.what(), HasSubstr("x.model"));
    EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

// Puts a 32-bit number `at` bytes into the double array of charsmap_model(), or before it.
std::string with_unit(int64_t at, uint32_t value) {
  std::string model = charsmap_model();
  // The root's unit: offset 1 or more, label 0, no value. Found behind the array's size, which is a
  // multiple of 1024.
  size_t begin = std::string::npos;
  for (size_t i = 0; i + 8 < model.size() && begin == std::string::npos; ++i) {
    uint32_t size = 0;
    std::memcpy(&size, model.data() + i, 4);
    if (size >= 1024 && size % 1024 == 0 && size < model.size() - i) begin = i + 4;
  }
  EXPECT_NE(begin, std::string::npos);
  std::memcpy(model.data() + static_cast<int64_t>(begin) + at, &value, 4);
  return model;
}

TEST(SentencePieceCheck, ASoundCharsmapIsTakenAndWorks) {
  check_sentencepiece_model(charsmap_model(), "x.model");
  const auto tokenizer = make_sentencepiece_tokenizer(charsmap_model(), {}, "x.model");
  const auto kNone = Tokenizer::SpecialTokens::kNone;
  EXPECT_EQ(tokenizer->encode("\xEF\xBC\xA1 fi", kNone),
            tokenizer->encode("A \xEF\xAC\x81", kNone));
}

TEST(SentencePieceCheck, ACharsmapThatLeadsOutOfItsArrayIsRefused) {
  expect_damaged(with_unit(0, 0xFFFFF400U & 0x7FFFFFFFU), "a node lies outside");
  expect_damaged(with_unit(-4, 0xFFFFFFFFU), "claims a double array");
  expect_damaged(with_unit(-4, 0), "it has no units");
}

TEST(SentencePieceCheck, ACharsmapThatRunsInACircleIsRefused) {
  // Without an offset the root is its own child by a zero byte.
  expect_damaged(with_unit(0, 0), "it runs in a circle");
}

TEST(SentencePieceCheck, ACharsmapWhoseValueLiesOutsideItsTextsIsRefused) {
  // Of every unit, whichever of them are values.
  int64_t refused = 0;
  for (int64_t at = 0; at < 1024; at += 4) {
    try {
      check_sentencepiece_model(with_unit(at, 0x8FFFFFFFU), "x.model");
    } catch (const Error& error) {
      refused += std::string(error.what()).find("a value lies outside") != std::string::npos;
    }
  }
  EXPECT_GT(refused, 0);
}

TEST(SentencePieceCheck, TextsWithoutAnEndAreRefused) {
  const std::string charsmap = std::string("\x04\0\0\0", 4) + std::string(4, '\0') + "abc";
  expect_damaged(field(3, field(2, charsmap)), "texts that end in zero");
}

TEST(SentencePieceCheck, AScoreThatIsNotFiniteIsRefused) {
  expect_damaged(piece("a", std::numeric_limits<float>::quiet_NaN(), 1), "has the score nan");
}

TEST(SentencePieceCheck, MoreUserDefinedPiecesThanTheLibraryHasRoomForAreRefused) {
  std::string model;
  for (size_t size = 1; size <= 64; ++size) model += piece(std::string(size, 'a'), 0.0F, 4);
  check_sentencepiece_model(model, "x.model");
  expect_damaged(model + piece(std::string(65, 'a'), 0.0F, 4), "begin one another");
}

TEST(SentencePieceCheck, ATruncatedMessageIsRefused) {
  const std::string model = charsmap_model();
  expect_damaged(model.substr(0, model.size() - 3), "truncated");
}

}  // namespace
}  // namespace quarry
