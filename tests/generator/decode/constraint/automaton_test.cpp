#include "generator/decode/constraint/automaton.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <regex>

#include "data/core/error.h"
#include "data/text/utf8.h"
#include "generator/decode/constraint/regex_parser.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

Automaton regex_automaton(const std::string& pattern, RegexOptions options = RegexOptions()) {
  Grammar grammar;
  grammar.rules.push_back(parse_regex(pattern, options));
  return Automaton(grammar);
}

Automaton::State read(Automaton& automaton, const std::string& text) {
  Automaton::State state = automaton.start();
  for (const char byte : text) {
    if (state == Automaton::kDead) break;
    state = automaton.next(state, static_cast<uint8_t>(byte));
  }
  return state;
}

bool matches(Automaton& automaton, const std::string& text) {
  const Automaton::State state = read(automaton, text);
  return state != Automaton::kDead && automaton.accepts(state);
}

// All texts over the characters up to that length.
std::vector<std::string> all_texts(const std::string& characters, size_t longest) {
  std::vector<std::string> texts = {""};
  for (size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].size() == longest) continue;
    for (const char c : characters) texts.push_back(texts[i] + c);
  }
  return texts;
}

TEST(Automaton, RegularExpressionsMatchWhatStdRegexMatches) {
  const char* const patterns[] = {
      "",           "a",         "ab|b1",     "(ab)*",        "a+b?",          "a{2}",
      "a{1,3}b",    "(a|b){2,}", "[ab]*1",    "[^a]b",        "\\d+",          "\\w\\s\\w",
      "\\D\\d",     ".b.",       "a*a*b",     "(a*)*",        "(a|)(b|)",      "(a?){3}b",
      "^a|b$",      "^(a|b1)$",  "a(?:b|1)+", "[a-b1 ]{0,4}", "(a(b(1)?)?)?",  "\\x61\\u0062",
      "(ab?)*?1+?", "[\\d\\s]+", "[-a]+",     "a[b-]?",       "(|a)+1",        "((a|b)*1){2}",
      "a{0}b",      "[^\\w]+a",  "\\S{2}",    "(a{2}){1,2}",  "a|ab|abb|abbb", "a{,2}"};
  const std::vector<std::string> texts = all_texts("ab1 -", 5);
  for (const char* pattern : patterns) {
    Automaton automaton = regex_automaton(pattern);
    if (std::string(pattern) == "a{,2}") {  // no counts: text, as in ECMAScript
      EXPECT_TRUE(matches(automaton, "a{,2}"));
      continue;
    }
    const std::regex expected(pattern);
    for (const std::string& text : texts) {
      ASSERT_EQ(matches(automaton, text), std::regex_match(text, expected))
          << pattern << ": " << text;
    }
  }
}

TEST(Automaton, ADeadStateIsReachedAsSoonAsNothingCanFollow) {
  const std::vector<std::string> texts = all_texts("ab1", 6);
  for (const char* pattern : {"(ab)*1", "a{2,4}", "(a|b1)*b", "a(b|1)[^ab]"}) {
    Automaton automaton = regex_automaton(pattern);
    const std::regex expected(pattern);
    for (const std::string& begin : all_texts("ab1", 3)) {
      bool can_match = false;
      for (const std::string& text : texts) {
        can_match = can_match ||
                    (text.compare(0, begin.size(), begin) == 0 && std::regex_match(text, expected));
      }
      EXPECT_EQ(read(automaton, begin) != Automaton::kDead, can_match) << pattern << ": " << begin;
    }
  }
}

TEST(Automaton, ClassesHoldExactlyTheirCodePoints) {
  const struct {
    const char* pattern;
    std::function<bool(char32_t)> holds;
  } cases[] = {
      {"[\xC3\xA0-\xD3\xBF]", [](char32_t c) { return c >= 0xE0 && c <= 0x4FF; }},
      {"[\\u07f0-\\u0900\\u{1f600}-\\u{1f64f}x]",
       [](char32_t c) {
         return (c >= 0x7F0 && c <= 0x900) || (c >= 0x1F600 && c <= 0x1F64F) || c == 'x';
       }},
      {"[^\\u0080-\\uffff]", [](char32_t c) { return c < 0x80 || c > 0xFFFF; }},
      {".", [](char32_t c) { return c != '\n'; }},
      {"[\\u{fffe}-\\u{10001}]", [](char32_t c) { return c >= 0xFFFE && c <= 0x10001; }},
      {"\\W",
       [](char32_t c) { return c >= 0x80 || (!std::isalnum(static_cast<int>(c)) && c != '_'); }},
  };
  for (const auto& [pattern, holds] : cases) {
    Automaton automaton = regex_automaton(pattern);
    for (char32_t c = 0; c <= 0x10FFFF; ++c) {
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      std::string text;
      append_utf8(text, c);
      ASSERT_EQ(matches(automaton, text), holds(c)) << pattern << " " << static_cast<uint32_t>(c);
    }
  }
}

TEST(Automaton, BytesThatAreNotUtf8AreDead) {
  Automaton automaton = regex_automaton(".*");
  for (const char* text :
       {"\x80", "\xC0\x80", "\xE0\x80", "\xED\xA0", "\xF4\x90", "\xFF", "a\xC3z"}) {
    EXPECT_EQ(read(automaton, text), Automaton::kDead) << text;
  }
  // A character may be cut anywhere: what is there can still go on.
  const Automaton::State half = read(automaton, "\xE2\x82");
  ASSERT_NE(half, Automaton::kDead);
  EXPECT_FALSE(automaton.accepts(half));
  EXPECT_TRUE(automaton.accepts(automaton.next(half, 0xAC)));
}

TEST(Automaton, SearchedPatternsMayLieAnywhereUnlessAnchored) {
  RegexOptions options;
  options.match = RegexOptions::Match::kSearch;
  const std::vector<std::string> texts = all_texts("ab1", 5);
  for (const char* pattern : {"b1", "^b", "1$", "^a|b$", "^(a|b)$", "^a*$"}) {
    Automaton automaton = regex_automaton(pattern, options);
    const std::regex expected(pattern);
    for (const std::string& text : texts) {
      ASSERT_EQ(matches(automaton, text), std::regex_search(text, expected))
          << pattern << ": " << text;
    }
  }
}

TEST(Automaton, InJsonStringsCharactersAreWrittenAsJsonWantsThem) {
  RegexOptions options;
  options.form = TextForm::kJsonString;
  Automaton automaton = regex_automaton("a[\"\\\\\\n\\x01\xC3\xA9]{5}", options);
  EXPECT_TRUE(matches(automaton, "a\\\"\\\\\\n\\u0001\xC3\xA9"));
  EXPECT_FALSE(matches(automaton, "a\"\\\\\\n\\u0001\xC3\xA9"));
  EXPECT_FALSE(matches(automaton, "a\\\"\\\\\n\\u0001\xC3\xA9"));
}

TEST(Automaton, CompleteMeansThatNothingMayFollow) {
  Automaton automaton = regex_automaton("ab?");
  EXPECT_FALSE(automaton.is_complete(read(automaton, "a")));
  EXPECT_TRUE(automaton.is_complete(read(automaton, "ab")));
}

// list = "[" (list ("," list)*)? "]"
Grammar lists() {
  ListExpr list(bytes_expr(","), Expr::Gaps::kAtTheEnd);
  list.add(rule_expr(0), {false, true});
  Grammar grammar;
  grammar.rules.push_back(sequence_expr({bytes_expr("["), list.take(), bytes_expr("]")}));
  return grammar;
}

TEST(Automaton, RulesCallThemselvesToABoundedDepth) {
  Automaton automaton(lists());
  EXPECT_TRUE(matches(automaton, "[[],[[],[]],[]]"));
  EXPECT_FALSE(matches(automaton, "[[],[[],[]],[]"));
  EXPECT_FALSE(matches(automaton, "[[],]"));
  const size_t deepest = Automaton::kMostCalls + 1;
  EXPECT_TRUE(matches(automaton, std::string(deepest, '[') + std::string(deepest, ']')));
  const Automaton::State bottom = read(automaton, std::string(deepest, '['));
  ASSERT_NE(bottom, Automaton::kDead);
  EXPECT_EQ(automaton.next(bottom, '['), Automaton::kDead);
  EXPECT_NE(automaton.next(bottom, ']'), Automaton::kDead);
}

TEST(Automaton, PlacesWithoutAWayToTheEndAreNotEntered) {
  // start = "a" never | "b" deep | "c",  never = "x" never,  deep_0 = "(" deep_1 ")" ...
  Grammar grammar;
  grammar.rules.resize(2);
  grammar.rules[1] = sequence_expr({bytes_expr("x"), rule_expr(1), bytes_expr("y")});
  std::vector<Expr> choices;
  choices.push_back(sequence_expr({bytes_expr("a"), rule_expr(1)}));
  choices.push_back(sequence_expr({bytes_expr("b"), rule_expr(2)}));
  choices.push_back(bytes_expr("c"));
  grammar.rules[0] = choice_expr(std::move(choices));
  for (size_t i = 2; i < 2 + Automaton::kMostCalls + 2; ++i) {
    grammar.rules.push_back(sequence_expr({bytes_expr("("), rule_expr(i + 1), bytes_expr(")")}));
  }
  grammar.rules.push_back(bytes_expr("."));
  Automaton automaton(grammar);
  EXPECT_EQ(read(automaton, "a"), Automaton::kDead);
  EXPECT_EQ(read(automaton, "b"), Automaton::kDead);
  EXPECT_TRUE(matches(automaton, "c"));
}

TEST(Automaton, StatesComeBackAfterTheyWereForgotten) {
  Automaton automaton = regex_automaton("(ab|a1)*");
  EXPECT_TRUE(matches(automaton, "aba1ab"));
  EXPECT_GT(automaton.bytes(), 0);
  automaton.forget();
  EXPECT_EQ(automaton.bytes(), 0);
  EXPECT_TRUE(matches(automaton, "aba1ab"));
  EXPECT_FALSE(matches(automaton, "aba"));
}

template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "no error";
}

TEST(Automaton, WhatIsTooLargeOrTooComplexIsRefused) {
  EXPECT_THAT(error_of([] { regex_automaton("((a{1000}){1000}){1000}"); }), HasSubstr("too large"));
  EXPECT_THAT(error_of([] { regex_automaton("[^\\s\\S]"); }), HasSubstr("no text satisfies"));
  // 2^n subsets of places.
  Automaton automaton = regex_automaton("(a|b)*a(a|b){20000}");
  EXPECT_THAT(error_of([&] { read(automaton, std::string(30000, 'a')); }),
              HasSubstr("too complex"));
}

TEST(RegexParser, ErrorsNamePlaceAndReason) {
  const struct {
    const char* pattern;
    const char* message;
  } cases[] = {
      {"a(b", "byte 3: a group has no end"},
      {"a)", "closes no group"},
      {"[ab", "a class has no end"},
      {"*a", "\"*\" repeats nothing"},
      {"a**", "a repeat behind a repeat"},
      {"a{3,1}", "counts backwards"},
      {"a{200000}", "repeats more than 100000 times"},
      {"(?=a)", "look-around"},
      {"(?<!a)b", "look-around"},
      {"(?i)a", "flags"},
      {"(a)\\1", "\"\\1\" is not supported"},
      {"\\bword", "\"\\b\" is not supported"},
      {"\\p{L}", "\"\\p\" is not supported"},
      {"a^b", "\"^\" is supported only at the beginning"},
      {"a$b", "\"$\" is supported only at the end"},
      {"(a$)", "\"$\" inside a group"},
      {"[b-a]", "backwards"},
      {"\\x4", "hexadecimal"},
      {"\\ud800", "hexadecimal"},
      {"[[:alpha:]]", "[:alpha:]"},
      {"a\\", "ends with a backslash"},
      {"\xFF", "not valid UTF-8"},
  };
  for (const auto& [pattern, message] : cases) {
    const std::string text = pattern;
    EXPECT_THAT(error_of([&] { parse_regex(text, RegexOptions()); }), HasSubstr(message)) << text;
  }
  EXPECT_THAT(error_of([] { parse_regex(std::string(1000, '('), RegexOptions()); }),
              HasSubstr("nest deeper"));
}

}  // namespace
}  // namespace quarry
