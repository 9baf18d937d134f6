#include "generator/decode/constraint/constraint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "data/core/error.h"
#include "data/core/json.h"
#include "generator/decode/constraint/constraints.h"
#include "generator/decode/constraint/json_schema.h"
#include "generator/decode/constraint/regex_parser.h"
#include "generator/decode/random.h"
#include "tests/generator/decode/fake_model.h"
#include "tests/support/expect_error.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

// Tokens are the given bytes; "" is a special token.
class ListTokenizer : public Tokenizer {
 public:
  explicit ListTokenizer(std::vector<std::string> tokens, bool decode_drops_blank = false)
      : tokens_(std::move(tokens)), decode_drops_blank_(decode_drops_blank) {}
  std::vector<int32_t> encode(std::string_view, SpecialTokens) const override { return {}; }
  std::string decode(const std::vector<int32_t>& ids) const override {
    std::string text;
    for (const int32_t id : ids) text += token_bytes(id);
    return decode_drops_blank_ && text.rfind(' ', 0) == 0 ? text.substr(1) : text;
  }
  std::string token_bytes(int32_t id) const override { return tokens_[static_cast<size_t>(id)]; }
  int64_t vocab_size() const override { return static_cast<int64_t>(tokens_.size()); }
  int32_t token_id(std::string_view) const override { return -1; }
  bool is_special(int32_t id) const override { return token_bytes(id).empty(); }

 private:
  std::vector<std::string> tokens_;
  bool decode_drops_blank_;
};

// 0: the end; 1: special; then each byte of `alphabet`, longer pieces of it, one of them twice.
std::vector<std::string> random_vocabulary(const std::string& alphabet, size_t size) {
  SplitMix64 random(1);
  std::vector<std::string> tokens = {"", ""};
  for (const char c : alphabet) tokens.emplace_back(1, c);
  while (tokens.size() < size) {
    std::string token;
    for (uint64_t n = 2 + random.next() % 4; n > 0; --n) {
      token += alphabet[random.next() % alphabet.size()];
    }
    tokens.push_back(token);
  }
  tokens.push_back(tokens.back());
  return tokens;
}

Grammar schema_grammar(const std::string& schema) {
  return compile_json_schema(parse_ordered_json(schema, "schema", ErrorCode::kInternal));
}

Grammar regex_grammar(const std::string& pattern) {
  Grammar grammar;
  grammar.rules.push_back(parse_regex(pattern, RegexOptions()));
  return grammar;
}

std::shared_ptr<const TokenTrie> make_trie(const Tokenizer& tokenizer, bool starts_text = false) {
  return std::make_shared<const TokenTrie>(tokenizer, tokenizer.vocab_size(),
                                           std::vector<int32_t>{0}, starts_text);
}

std::vector<int32_t> allowed_ids(const TokenMask& mask, int64_t vocab_size) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < vocab_size; ++id) {
    if (mask.allows(id)) ids.push_back(id);
  }
  EXPECT_EQ(mask.num_allowed, static_cast<int64_t>(ids.size()));
  return ids;
}

// Whether a text can go on to one of the grammar, and whether it is one, byte by byte.
struct Reading {
  bool lives = true;
  bool matches = false;
};
Reading read(Automaton& automaton, const std::string& text) {
  Automaton::State state = automaton.start();
  for (const char byte : text) {
    state = automaton.next(state, static_cast<uint8_t>(byte));
    if (state == Automaton::kDead) return {false, false};
  }
  return {true, automaton.accepts(state)};
}

// Goes through random texts and compares each mask with every token tried for itself.
void expect_masks_of_every_token(const Grammar& grammar, const std::string& alphabet,
                                 int64_t most_bytes) {
  const ListTokenizer tokenizer(random_vocabulary(alphabet, 400));
  const auto constraint = std::make_shared<Constraint>(grammar, make_trie(tokenizer), most_bytes);
  Automaton automaton(grammar);
  SplitMix64 random(5);
  int64_t num_masks = 0;
  for (int round = 0; round < 20; ++round) {
    ConstraintState state(constraint);
    std::string text;
    for (int step = 0; step < 25; ++step) {
      automaton.begin_work();
      std::vector<int32_t> expected;
      for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
        const std::string bytes = tokenizer.token_bytes(id);
        const bool allowed = id == 0         ? read(automaton, text).matches
                             : bytes.empty() ? false
                                             : read(automaton, text + bytes).lives;
        if (allowed) expected.push_back(id);
      }
      ASSERT_EQ(allowed_ids(*state.mask(), tokenizer.vocab_size()), expected) << text;
      ++num_masks;
      if (expected.empty() || expected == std::vector<int32_t>{0}) break;
      int32_t chosen = 0;
      while (chosen == 0) chosen = expected[random.next() % expected.size()];
      state.advance(chosen);
      text += tokenizer.token_bytes(chosen);
    }
  }
  EXPECT_GT(num_masks, 60);
}

TEST(Constraint, MasksHoldExactlyTheTokensThatLiveOn) {
  const std::string json = "{}[]\":,1a \\n-.e\xC3\xA9";
  for (const int64_t most_bytes : {Constraint::kMostBytes, int64_t{1}, int64_t{5000}}) {
    expect_masks_of_every_token(schema_grammar(R"({"type": "object"})"), json, most_bytes);
    expect_masks_of_every_token(
        schema_grammar(
            R"({"properties": {"a": {"type": "string", "maxLength": 4}, "e": {"type": "number"}},
                           "type": "object", "additionalProperties": true})"),
        json, most_bytes);
    expect_masks_of_every_token(regex_grammar("(ab|a1\xC3\xA9)*(b1|\xE2\x82\xAC)?"),
                                "ab1\xC3\xA9\xE2\x82\xAC", most_bytes);
  }
}

TEST(Constraint, TokensMayEndInsideACharacter) {
  const ListTokenizer tokenizer({"", "\xE2", "\xE2\x82", "\xAC", "\x82\xAC", "\xE2\x82\xAC", "x"});
  const auto constraint =
      std::make_shared<Constraint>(regex_grammar("\xE2\x82\xAC"), make_trie(tokenizer));
  ConstraintState state(constraint);
  EXPECT_THAT(allowed_ids(*state.mask(), 7), testing::ElementsAre(1, 2, 5));
  state.advance(2);
  EXPECT_THAT(allowed_ids(*state.mask(), 7), testing::ElementsAre(3));
  EXPECT_FALSE(state.is_complete());
  state.advance(3);
  EXPECT_THAT(allowed_ids(*state.mask(), 7), testing::ElementsAre(0));
  EXPECT_TRUE(state.is_complete());
}

TEST(Constraint, ABlankThatBeginsATextIsNotPartOfIt) {
  const std::vector<std::string> tokens = {"", " yes", "yes", " ", " no", "!", " yes!"};
  const ListTokenizer drops(tokens, true);
  ConstraintState state(
      std::make_shared<Constraint>(regex_grammar("yes( yes|!)"), make_trie(drops, true)));
  EXPECT_THAT(allowed_ids(*state.mask(), 7), testing::ElementsAre(1, 2, 6));
  state.advance(1);
  EXPECT_THAT(allowed_ids(*state.mask(), 7), testing::ElementsAre(1, 3, 5));
  const ListTokenizer keeps(tokens, false);
  ConstraintState other(std::make_shared<Constraint>(regex_grammar("yes"), make_trie(keeps, true)));
  EXPECT_THAT(allowed_ids(*other.mask(), 7), testing::ElementsAre(2));
}

TEST(Constraint, LogitsOfOtherTokensFallToMinusInfinity) {
  const ListTokenizer tokenizer({"", "a", "b", "ab"});
  ConstraintState state(std::make_shared<Constraint>(regex_grammar("ab?"), make_trie(tokenizer)));
  std::vector<float> logits = {1, 2, 3, 4};
  state.apply(logits.data());
  const float kLowest = -std::numeric_limits<float>::infinity();
  EXPECT_THAT(logits, testing::ElementsAre(kLowest, 2, kLowest, 4));
}

TEST(Constraint, DraftsAreCountedUpToTheFirstTokenThatMustNotCome) {
  const ListTokenizer tokenizer({"", "a", "b", "ab"});
  ConstraintState state(std::make_shared<Constraint>(regex_grammar("(ab)*"), make_trie(tokenizer)));
  EXPECT_EQ(state.count_allowed({1, 2, 3, 1}), 4u);
  EXPECT_EQ(state.count_allowed({1, 1, 2}), 1u);
  EXPECT_EQ(state.count_allowed({3, 0, 3}), 2u);
  EXPECT_EQ(state.count_allowed({1, 0}), 1u);
  state.advance(1);
  EXPECT_EQ(state.count_allowed({2, 3}), 2u);
  EXPECT_EQ(state.count_allowed({}), 0u);
}

TEST(Constraint, AVocabularyWithoutTheNeededTokensIsRefused) {
  const ListTokenizer tokenizer({"", "a", "b"});
  const auto expect_refusal = [](const auto& action, const std::string& message) {
    test::expect_error(action, ErrorCode::kInvalidArgument, message);
  };
  expect_refusal(
      [&] { Constraint(schema_grammar("{\"type\": \"object\"}"), make_trie(tokenizer)); },
      "no token of the model's vocabulary begins");
  ConstraintState state(std::make_shared<Constraint>(regex_grammar("ac"), make_trie(tokenizer)));
  state.advance(1);
  std::vector<float> logits(3);
  expect_refusal([&] { state.apply(logits.data()); },
                 "no token of the model's vocabulary continues");
}

TEST(Constraints, RequestsThatWantTheSameShareIt) {
  const auto generator = fake::make_generator(std::make_unique<fake::Model>(fake::hashed_letters));
  Constraints constraints(generator.get());
  const auto first = constraints.regex("a+");
  EXPECT_EQ(constraints.regex("a+"), first);
  EXPECT_NE(constraints.regex("b+"), first);
  EXPECT_EQ(constraints.json_object(), constraints.json_object());
  for (size_t i = 0; i < Constraints::kMostKept; ++i) constraints.regex("a" + std::to_string(i));
  EXPECT_NE(constraints.regex("a+"), first);
  EXPECT_THROW(constraints.regex(std::string(Constraints::kMostPatternBytes + 1, 'a')), Error);
  EXPECT_THROW(Constraints(nullptr).regex("a"), Error);
}

}  // namespace
}  // namespace quarry
