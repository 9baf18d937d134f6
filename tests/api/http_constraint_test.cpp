// response_format, guided_json and guided_regex over HTTP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/api/http_rig.h"
#include "tests/generator/decode/constraint/schema_check.h"

namespace quarry::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Members in an order that is not the alphabet's.
const char* const kSchema = R"({"type": "object", "properties": {"zebra": {"enum": ["yes", "no"]},
  "count": {"type": "integer", "minimum": 10, "maximum": 99}}, "required": ["zebra", "count"]})";

// A chat without retrieval, its body as text so that the order of members is kept.
std::string body_with(const std::string& fields) {
  return R"({"messages": [{"role": "user", "content": "hi"}], "retrieval": false, )" + fields + "}";
}

std::string json_schema_format(const std::string& schema) {
  return R"("response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": true,
      "schema": )" +
         schema + "}}";
}

HttpRig::Reply chat(const HttpRig& rig, const std::string& fields) {
  return rig.post("/v1/chat/completions", body_with(fields));
}

std::string content_of(const HttpRig::Reply& reply) {
  EXPECT_EQ(reply.status, 200) << reply.body;
  return reply.json()["choices"][0]["message"]["content"];
}

TEST(HttpConstraint, ResponseFormatHoldsTheAnswerToASchema) {
  HttpRig rig;
  const HttpRig::Reply reply = chat(rig, json_schema_format(kSchema));
  const std::string text = content_of(reply);
  EXPECT_EQ(schema_error(kSchema, text), "") << text;
  EXPECT_THAT(text, StartsWith("{\"zebra\":"));  // the schema's order
  EXPECT_EQ(reply.json()["choices"][0]["finish_reason"], "stop");
}

TEST(HttpConstraint, AStreamIsHeldToItAsWell) {
  HttpRig rig;
  const HttpRig::Reply reply = chat(rig, R"("stream": true, )" + json_schema_format(kSchema));
  std::string text;
  for (const Json& event : parse_events(reply.body)) {
    if (!event.is_object()) continue;
    for (const Json& choice : event["choices"]) text += choice["delta"].value("content", "");
  }
  EXPECT_EQ(schema_error(kSchema, text), "") << text;
}

TEST(HttpConstraint, AnAnswerFromDocumentsIsHeldToIt) {
  HttpRigOptions options;
  options.next = cited_answer;
  HttpRig rig(options);
  const HttpRig::Reply reply =
      rig.post("/v1/chat/completions",
               R"({"messages": [{"role": "user", "content": "who built the engine?"}], )" +
                   json_schema_format(kSchema) + "}");
  EXPECT_EQ(schema_error(kSchema, content_of(reply)), "");
  EXPECT_EQ(reply.json()["retrieval"]["answered"], true);
}

TEST(HttpConstraint, GuidedJsonAndRegexOfBothRoutes) {
  HttpRig rig;
  const std::string as_text = Json(std::string(kSchema)).dump();
  for (const std::string& schema : {std::string(kSchema), as_text}) {
    const std::string text = content_of(chat(rig, "\"guided_json\": " + schema));
    EXPECT_EQ(schema_error(kSchema, text), "") << text;
    EXPECT_THAT(text, StartsWith("{\"zebra\":"));
  }
  EXPECT_EQ(content_of(chat(rig, R"("guided_regex": "q{3}")")), "qqq");
  const std::string body = R"({"prompt": "x", "max_tokens": 50, "guided_regex": "[0-9]{4}!"})";
  const HttpRig::Reply completion = rig.post("/v1/completions", body);
  ASSERT_EQ(completion.status, 200) << completion.body;
  EXPECT_THAT(completion.json()["choices"][0]["text"].get<std::string>(),
              testing::MatchesRegex("[0-9][0-9][0-9][0-9]!"));
  EXPECT_EQ(completion.json()["choices"][0]["finish_reason"], "stop");
}

TEST(HttpConstraint, JsonObjectIsAnyObject) {
  HttpRig rig;
  const HttpRig::Reply reply =
      chat(rig, R"("max_tokens": 40, "response_format": {"type": "json_object"})");
  EXPECT_THAT(content_of(reply), StartsWith("{"));
  EXPECT_THAT(content_of(chat(rig, R"("response_format": {"type": "text"})")),
              testing::Not(StartsWith("{")));
}

TEST(HttpConstraint, ErrorsNameFieldPlaceAndKeyword) {
  HttpRig rig;
  const struct {
    std::string fields;
    const char* param;
    const char* message;
  } cases[] = {
      {json_schema_format(
           R"({"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 2}}})"),
       "response_format", "at #/properties/a: the keyword \"multipleOf\" is not supported"},
      {R"("response_format": {"type": "xml"})", "response_format",
       "expected an object whose type is text, json_object or json_schema"},
      {R"("response_format": "json")", "response_format", "expected an object whose type is"},
      {R"("response_format": {"type": "json_schema"})", "response_format",
       "'response_format.json_schema.schema' is missing"},
      {json_schema_format("3"), "response_format", "found 3, expected an object"},
      {R"("guided_json": "{\"type\"")", "guided_json", "not valid JSON"},
      {R"("guided_json": 3)", "guided_json", "'guided_json' is 3, expected a JSON schema"},
      {R"("guided_regex": "a(b")", "guided_regex", "byte 3: a group has no end"},
      {R"("guided_regex": 7)", "guided_regex", "expected a string"},
      {R"("guided_regex": "a", "guided_json": {})", "response_format", "more than one of"},
  };
  for (const auto& [fields, param, message] : cases) {
    const HttpRig::Reply reply = chat(rig, fields);
    EXPECT_EQ(reply.status, 400) << fields;
    const Json error = reply.json()["error"];
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(message)) << fields;
    EXPECT_EQ(error["param"], param) << fields;
  }
  const std::string body =
      R"({"messages": [{"role": "user", "content": "who built the engine?"}],
          "retrieval": {"decode": "rag-token"}, "guided_regex": "a"})";
  const HttpRig::Reply latent = rig.post("/v1/chat/completions", body);
  EXPECT_EQ(latent.status, 400);
  EXPECT_THAT(latent.body, HasSubstr("neither JSON schemas nor regular expressions"));
}

}  // namespace
}  // namespace quarry::test
