#include "generator/decode/constraint/json_schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/error.h"
#include "generator/decode/constraint/automaton.h"
#include "generator/decode/random.h"
#include "tests/generator/decode/constraint/schema_check.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

Automaton compile(const std::string& schema) {
  return Automaton(
      compile_json_schema(parse_ordered_json(schema, "JSON schema", ErrorCode::kInvalidArgument)));
}

bool accepts(Automaton& automaton, const std::string& text) {
  Automaton::State state = automaton.start();
  for (const char byte : text) {
    state = automaton.next(state, static_cast<uint8_t>(byte));
    if (state == Automaton::kDead) return false;
  }
  return automaton.accepts(state);
}

struct SchemaCase {
  const char* schema;
  std::vector<const char*> good;
  std::vector<const char*> bad;
};

const std::vector<SchemaCase>& schema_cases() {
  static const std::vector<SchemaCase> cases = {
      {R"({"type": "string"})",
       {R"("")", R"("a b")", R"("\"\\\/\b\n")", R"("é€😀")", R"("\u00e9\uD83D\uDE00")"},
       {"\"a\n\"", R"("\x")", R"("\ud83d")", R"("\udc00")", R"("a)", "a", R"( "a")"}},
      {R"({"type": "integer"})",
       {"0", "-7", "123456789012345678"},
       {"01", "-0", "1.0", "1e3", "+1", "", "1234567890123456789"}},
      {R"({"type": "number"})",
       {"0", "-0.5", "12.25e-3", "1E+9"},
       {".5", "1.", "1e", "1e100", "00", "-"}},
      {R"({"type": "number", "minimum": 0})", {"0", "0.5"}, {"-1"}},
      {R"({"type": "boolean"})", {"true", "false"}, {"1", "True"}},
      {R"({"type": "null"})", {"null"}, {"", "0"}},
      {R"({"type": ["integer", "null"]})", {"3", "null"}, {"3.5", "\"3\""}},
      {R"({"type": "integer", "minimum": -12, "maximum": 105})",
       {"-12", "-11", "-9", "-1", "0", "9", "10", "99", "100", "105"},
       {"-13", "-20", "-120", "106", "110", "999", "1000"}},
      {R"({"type": "integer", "exclusiveMinimum": 99, "exclusiveMaximum": 1001})",
       {"100", "101", "999", "1000"},
       {"99", "1001", "5", "-100"}},
      {R"({"type": "integer", "minimum": 7.5})", {"8", "80", "100"}, {"7", "-8", "0"}},
      {R"({"type": "integer", "maximum": -3})", {"-3", "-30"}, {"-2", "0", "3"}},
      {R"({"enum": ["red", "grün", 3, null, {"a": [1]}]})",
       {R"("red")", R"("grün")", "3", "null", R"({"a":[1]})"},
       {R"("blue")", "4", "red", R"({"a": [1]})"}},
      {R"({"type": "string", "enum": ["a", 3]})", {R"("a")"}, {"3"}},
      {R"({"const": "x\"y"})", {R"("x\"y")"}, {R"("x")"}},
      {R"({"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "boolean"}},
           "required": ["b"]})",
       {R"({"b":1})", R"({"b": 1, "a": true})", R"({"b":1,"a":false})"},
       {R"({})", R"({"a":true})", R"({"a":true,"b":1})", R"({"b":1,})", R"({"b":1,"c":2})",
        R"({"b":  1})", R"({ "b":1})", R"({"b":1,"b":2})"}},
      {R"({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}})",
       {"{}", R"({"a":1})", R"({"b":2})", R"({"c":3})", R"({"a":1,"c":3})", R"({"b":2,"c":3})",
        R"({"a":1,"b":2,"c":3})"},
       {R"({,"b":2})", R"({"c":3,"a":1})", R"({"a":1,,"c":3})"}},
      {R"({"properties": {"ab": {"const": 1}}, "type": "object", "additionalProperties": {"type": "integer"}})",
       {"{}", R"({"ab":1})", R"({"ab":1,"x":2,"y":3})", R"({"a":2})", R"({"abc":2})", R"({"":5})",
        R"({"ac":1})", R"({"é":1})"},
       {R"({"ab":2})", R"({"x":2,"ab":1})", R"({"x":"y"})", R"({"ab":1,"ab":1})"}},
      {R"({"type": "object"})",
       {"{}", R"({"a":{"b":[1,"x",null,{}]},"c":[[],[]]})"},
       {"[]", R"({"a"})", R"({a:1})", R"({"a":[1,]})", R"({"a":1}})"}},
      {R"({"type": "object", "additionalProperties": false})", {"{}"}, {R"({"a":1})"}},
      {R"({"type": "object", "required": ["z"]})", {R"({"z":1})", R"({"z":[],"y":2})"}, {"{}"}},
      {R"({"type": "array"})", {"[]", R"([1,"a",[true]])"}, {"[1 ]", "[,]", "{}"}},
      {R"({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3})",
       {"[1,2]", "[1, 2,3]"},
       {"[]", "[1]", "[1,2,3,4]", "[1,\"a\"]"}},
      {R"({"type": "array", "items": {"type": "integer"}, "minItems": 1})",
       {"[1]", "[1,2,3,4]"},
       {"[]"}},
      {R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"}},
      {R"({"type": "array", "prefixItems": [{"const": 1}, {"const": "b"}]})",
       {"[]", "[1]", "[1,\"b\"]"},
       {"[\"b\"]", "[1,\"b\",2]"}},
      {R"({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 1})",
       {"[1]", "[1,2]", "[1,2,2]"},
       {"[]", "[2]", "[1,1]"}},
      {R"({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "null"}}]})",
       {R"("x")", "[null]"},
       {"1", "[1]"}},
      {R"({"oneOf": [{"const": 1}, {"const": 2}], "title": "t", "default": 1})", {"1", "2"}, {"3"}},
      {R"({"allOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "null"}}})", {"null"}, {"1"}},
      {R"({"type": "string", "minLength": 2, "maxLength": 3})",
       {R"("ab")", R"("é€😀")", R"("\n\u00e9\ud83d\ude00")"},
       {R"("a")", R"("abcd")", R"("")"}},
      {R"({"type": "string", "minLength": 1})", {R"("a")", R"("aaaaaaaaa")"}, {R"("")"}},
      {R"({"type": "string", "pattern": "^[A-Z]{2}\\d+$"})",
       {R"("AB1")", R"("XY99")"},
       {R"("AB")", R"("xAB1")"}},
      {R"({"type": "string", "pattern": "b.d"})",
       {R"("abcd")", R"("b\"d")", R"("b\\d")"},
       {R"("bd")", R"("b"d")"}},
      {R"({"type": "string", "format": "date"})",
       {R"("2024-02-29")", R"("1999-12-31")"},
       {R"("2024-13-01")", R"("2024-02-30")", R"("2024-04-31")", R"("24-01-01")"}},
      {R"({"type": "string", "format": "date-time"})",
       {R"("2024-01-31T23:59:59Z")", R"("2024-01-31T00:00:00.123+02:00")"},
       {R"("2024-01-31")", R"("2024-01-31T24:00:00Z")", R"("2024-01-31T10:00:00")"}},
      {R"({"type": "string", "format": "uuid"})",
       {R"("123e4567-e89b-12d3-a456-426614174000")"},
       {R"("123e4567e89b12d3a456426614174000")"}},
      {R"({"$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"},
           "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v", "next"]}},
           "$ref": "#/$defs/node"})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":null}})"},
       {R"({"v":1})", R"({"v":1,"next":{"v":2}})"}},
      {R"({"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}})",
       {"{}", R"({"kids":[{},{"kids":[]}]})"},
       {R"({"kids":[1]})"}},
      {R"({})", {"1", R"({"a":[]})", "null"}, {"", "x"}},
      {R"(true)", {"1", "[]"}, {""}},
      {R"({"minimum": 0, "pattern": "^a", "description": "a number or a string"})",
       {"0", "1.5", R"("ab")"},
       {"-1", R"("b")", "null"}},
  };
  return cases;
}

TEST(JsonSchema, TextsAreAcceptedAsTheSchemaSays) {
  for (const SchemaCase& c : schema_cases()) {
    Automaton automaton = compile(c.schema);
    for (const char* text : c.good)
      EXPECT_TRUE(accepts(automaton, text)) << c.schema << ": " << text;
    for (const char* text : c.bad)
      EXPECT_FALSE(accepts(automaton, text)) << c.schema << ": " << text;
  }
}

// A text of the automaton, byte by byte at random, rather short; "" when it has no end after a
// while.
std::string random_text(Automaton& automaton, SplitMix64& random) {
  const std::string likely = "\"\"\"\"{}[]]]},:10etrufalsn";
  std::string text;
  Automaton::State state = automaton.start();
  while (text.size() < 5000) {
    if (automaton.accepts(state) && (automaton.is_complete(state) || random.next() % 3 == 0)) {
      return text;
    }
    uint8_t byte = 0;
    Automaton::State next = Automaton::kDead;
    for (int tries = 0; next == Automaton::kDead; ++tries) {
      byte = tries < 60 ? static_cast<uint8_t>(likely[random.next() % likely.size()])
                        : static_cast<uint8_t>(random.next());
      next = automaton.next(state, byte);
      if (tries > 20000) return "stuck at " + text;
    }
    text += static_cast<char>(byte);
    state = next;
  }
  return "";
}

TEST(JsonSchema, RandomTextsOfASchemaSatisfyIt) {
  SplitMix64 random(7);
  size_t num_texts = 0;
  for (const SchemaCase& c : schema_cases()) {
    Automaton automaton = compile(c.schema);
    for (int i = 0; i < 40; ++i) {
      automaton.begin_work();
      const std::string text = random_text(automaton, random);
      if (text.empty()) continue;
      ++num_texts;
      ASSERT_EQ(test::schema_error(c.schema, text), "") << c.schema << ": " << text;
    }
  }
  EXPECT_GT(num_texts, 1200u);
}

TEST(JsonSchema, EveryIntegerOfARangeAndNoOther) {
  SplitMix64 random(3);
  for (int i = 0; i < 60; ++i) {
    const auto low = static_cast<int64_t>(random.next() % 3000) - 1500;
    const auto high = low + static_cast<int64_t>(random.next() % 1200);
    Automaton automaton =
        compile(concat(R"({"type": "integer", "minimum": )", low, R"(, "maximum": )", high, "}"));
    for (int64_t n = -2000; n <= 3500; ++n) {
      ASSERT_EQ(accepts(automaton, std::to_string(n)), n >= low && n <= high)
          << n << " in " << low << " to " << high;
    }
  }
}

TEST(JsonSchema, ErrorsNamePlaceAndKeyword) {
  const struct {
    const char* schema;
    const char* message;
  } cases[] = {
      {R"({"type": "integer", "multipleOf": 3})",
       "at #: the keyword \"multipleOf\" is not supported"},
      {R"({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}})",
       "at #/properties/a: the keyword \"uniqueItems\" is not supported"},
      {R"({"patternProperties": {}})", "the keyword \"patternProperties\""},
      {R"({"not": {}})", "the keyword \"not\""},
      {R"({"type": "text"})", "\"type\" is \"text\", expected object, array"},
      {R"({"type": []})", "\"type\" is an empty list"},
      {R"(3)", "at #: found 3, expected an object, true or false"},
      {R"(false)", "false allows nothing"},
      {R"({"anyOf": [{"const": 1}], "minimum": 3})",
       "\"minimum\" beside \"anyOf\" is not supported"},
      {R"({"enum": []})", "\"enum\" is [], expected a list that is not empty"},
      {R"({"enum": [1], "type": "string"})", "no value of \"enum\""},
      {R"({"allOf": [{}, {}]})", "\"allOf\" of 2 schemas is not supported"},
      {R"({"$ref": "other.json"})", "\"$ref\" is \"other.json\", expected a place in this schema"},
      {R"({"$ref": "#/$defs/x"})", "\"$ref\" #/$defs/x is not in the schema"},
      {R"({"$ref": "#"})", "comes back to itself without a value between"},
      {R"({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}})",
       "comes back to itself"},
      {R"({"type": "string", "format": "email"})", "\"format\" is \"email\", supported are date"},
      {R"({"type": "string", "pattern": "(?=a)b"})", "look-around"},
      {R"({"type": "string", "pattern": "a", "maxLength": 3})", "only one of \"pattern\""},
      {R"({"type": "string", "minLength": 4, "maxLength": 3})", "\"maxLength\" is 3"},
      {R"({"type": "string", "minLength": -1})",
       "\"minLength\" is -1, expected a whole number from 0"},
      {R"({"type": "number", "maximum": 3})",
       "\"maximum\" is supported only with \"type\": \"integer\""},
      {R"({"type": "number", "minimum": 1})", "\"minimum\" is 1, of \"type\": \"number\" only 0"},
      {R"({"type": "integer", "minimum": 2, "maximum": 1})",
       "no integer is at least 2 and at most 1"},
      {R"({"type": "array", "items": [{}]})", "\"items\" is a list: use \"prefixItems\""},
      {R"({"type": "array", "items": {"const": 1}, "minItems": 3, "maxItems": 2})",
       "\"minItems\" is 3"},
      {R"({"type": "object", "properties": {}, "required": ["a"]})", "\"required\" names \"a\""},
      {R"({"type": "object", "properties": 3})", "\"properties\" is not an object"},
      {R"({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}})",
       "no text satisfies"},
  };
  for (const auto& [schema, message] : cases) {
    try {
      compile(schema);
      ADD_FAILURE() << "no error for " << schema;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_THAT(error.what(), HasSubstr(message)) << schema;
    }
  }
}

TEST(JsonSchema, NestingEndsBelowTheBoundOfTheParser) {
  Automaton automaton = compile(R"({"type": "object"})");
  std::string text;
  Automaton::State state = automaton.start();
  for (int depth = 0; depth < 2 * kMaxJsonDepth; ++depth) {
    Automaton::State next = state;
    for (const char byte : std::string(R"({"a":)")) {
      next = next == Automaton::kDead ? next : automaton.next(next, static_cast<uint8_t>(byte));
    }
    if (next == Automaton::kDead) break;
    text += R"({"a":)";
    state = next;
  }
  const size_t depth = text.size() / 5;
  EXPECT_GE(depth, 60u);
  text += "1" + std::string(depth, '}');
  EXPECT_TRUE(accepts(automaton, text));
  EXPECT_NO_THROW(parse_json(text, "text", ErrorCode::kInternal));
}

}  // namespace
}  // namespace quarry
