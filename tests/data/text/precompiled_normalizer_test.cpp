// sentencepiece's compiled rules against PyPI tokenizers: tests/golden/tokenizers/precompiled.
#include "data/text/precompiled_normalizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "data/core/error.h"
#include "data/core/json.h"
#include "data/text/tokenizer.h"
#include "data/text/utf8.h"
#include "tests/support/expect_error.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

std::filesystem::path folder() {
  return std::filesystem::path(QUARRY_SOURCE_DIR) / "tests/golden/tokenizers/precompiled";
}

std::string golden_rules() {
  const Json tokenizer = read_json_file(folder() / "tokenizer.json");
  return decode_base64(tokenizer.at("normalizer").at("precompiled_charsmap").get<std::string>(),
                       "golden");
}

TEST(PrecompiledNormalizer, GivesThePeersTextsAndIds) {
  const Json expected = read_json_file(folder() / "expected.json");
  const auto normalizer = make_precompiled_normalizer(golden_rules(), "golden");
  const auto tokenizer = load_tokenizer(folder());
  const Json& texts = expected.at("texts");
  ASSERT_GT(texts.size(), 10U);
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    EXPECT_EQ(normalizer->apply(text), expected.at("normalized")[i].get<std::string>()) << i;
    EXPECT_EQ(tokenizer->encode(text, Tokenizer::SpecialTokens::kAdd),
              expected.at("ids")[i].get<std::vector<int32_t>>())
        << i;
  }
}

template <typename Action>
void expect_corrupt(const Action& action, const std::string& message) {
  test::expect_error(action, ErrorCode::kCorruptData, message);
}

TEST(PrecompiledNormalizer, RulesForHalfACharacterAreRefused) {
  const std::string rules = golden_rules();
  std::string half = rules;
  half[half.size() - 2] = '\xC3';  // a lead byte before the last zero
  expect_corrupt([&] { make_precompiled_normalizer(half, "file"); },
                 "file: replacements of precompiled_charsmap are not valid UTF-8");
  // A trie of one unit, which is a rule for the second byte of U+00E9.
  const std::string middle("\4\0\0\0\1\0\0\x80\xC3\xA9\0", 11);
  expect_corrupt([&] { make_precompiled_normalizer(middle, "file"); },
                 "file: precompiled_charsmap has a rule for byte 1 of its 3 bytes");
}

TEST(PrecompiledNormalizer, TruncatedRulesAreNamed) {
  const std::string rules = golden_rules();
  for (const size_t size : {size_t{0}, size_t{3}, size_t{4}, size_t{100}}) {
    expect_corrupt([&] { make_precompiled_normalizer(rules.substr(0, size), "file"); },
                   "file: precompiled_charsmap has " + std::to_string(size) + " bytes");
  }
  expect_corrupt([] { decode_base64("QU*B", "file"); },
                 "file: precompiled_charsmap is not base64: byte 42 at 2");
}

// Whatever the units say, rules are refused or a text is read within bounds, in characters.
TEST(PrecompiledNormalizer, FlippedBitsNeverLeadOutside) {
  const std::string rules = golden_rules();
  int refused = 0;
  int applied = 0;
  for (size_t at = 4; at < rules.size(); at += 3) {
    std::string broken = rules;
    broken[at] = static_cast<char>(broken[at] ^ 0x5A);
    std::unique_ptr<Normalizer> normalizer;
    try {
      normalizer = make_precompiled_normalizer(broken, "file");
    } catch (const Error&) {
      ++refused;
      continue;
    }
    ++applied;
    for (const char* text : {"a\u0301b", "x\u0302\u0301", "\u2460 moon", "\u1100\u1161"}) {
      EXPECT_TRUE(is_valid_utf8(normalizer->apply(text)));
    }
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(applied, 0);
}

}  // namespace
}  // namespace quarry
