#include "data/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace quarry {
namespace {

using testing::HasSubstr;

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), {});
}

std::string render(const std::string& source,
                   const OrderedJson& variables = OrderedJson::object()) {
  return ChatTemplate(source, "<s>", "</s>")
      .render(OrderedJson::array({{{"role", "user"}, {"content", "Hi"}}}), false, variables);
}

std::string error_of(const std::string& source) {
  try {
    return "rendered: " + render(source);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
    return e.what();
  }
}

// 12 conversations through 6 templates, against jinja2 as transformers sets it up.
TEST(ChatTemplate, RendersTheBytesOfTransformers) {
  const std::filesystem::path folder =
      std::filesystem::path(QUARRY_SOURCE_DIR) / "tests/golden/chat_templates";
  const OrderedJson golden = OrderedJson::parse(read_text(folder / "expected.json"));
  int cases = 0;
  for (const OrderedJson& one : golden.at("cases")) {
    const auto name = one.at("template").get<std::string>();
    const ChatTemplate chat(read_text(folder / "templates" / (name + ".jinja")),
                            one.at("bos_token"), one.at("eos_token"));
    OrderedJson extra = OrderedJson::object();
    if (one.contains("tools")) extra["tools"] = one["tools"];
    const bool prompt = one.at("add_generation_prompt").get<bool>();
    SCOPED_TRACE(name + ", case " + std::to_string(cases));
    if (one.contains("error")) {
      try {
        chat.render(one.at("messages"), prompt, extra);
        ADD_FAILURE() << "did not refuse";
      } catch (const Error& e) {
        EXPECT_THAT(e.what(), HasSubstr(one["error"].get<std::string>()));
      }
    } else {
      EXPECT_EQ(chat.render(one.at("messages"), prompt, extra), one["expected"].get<std::string>());
    }
    ++cases;
  }
  EXPECT_EQ(cases, 72);
}

TEST(ChatTemplate, MessagesOfTheStructGiveTheSameAsJson) {
  const ChatTemplate chat(
      "{{ bos_token }}{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
      "{{ 'go' if add_generation_prompt }}",
      "<s>", "</s>");
  EXPECT_EQ(chat.render({{"user", "a"}, {"assistant", "b"}}, true), "<s>user=a;assistant=b;go");
}

TEST(ChatTemplate, SyntaxErrorsNameLineFoundAndWanted) {
  EXPECT_EQ(error_of("a\n{% if x %}\nb"),
            "chat template, line 3: expected \"{% endif %}\", found the end of the template");
  EXPECT_EQ(error_of("{{ 1 + }}"), "chat template, line 1: expected an expression, found \"}}\"");
  EXPECT_EQ(error_of("\n\n{{ 'open }}"), "chat template, line 3: string is not closed");
  EXPECT_THAT(error_of("{% include 'x' %}"), HasSubstr("tag \"include\" is not supported; known:"));
  EXPECT_THAT(error_of("{% break %}"), HasSubstr("\"break\" outside a loop"));
  EXPECT_THAT(error_of("{{ x "), HasSubstr("tag is not closed"));
}

TEST(ChatTemplate, RunErrorsNameTheLine) {
  EXPECT_EQ(error_of("\n{{ raise_exception('no tools here') }}"),
            "chat template, line 2: no tools here");
  EXPECT_EQ(error_of("{{ missing.field }}"), "chat template, line 1: 'missing' is undefined");
  EXPECT_EQ(error_of("{{ messages[0].absent.field }}"),
            "chat template, line 1: 'dict object' has no attribute 'absent'");
  EXPECT_THAT(error_of("{{ 'a' + 1 }}"), HasSubstr("unsupported operand types for +"));
  EXPECT_THAT(error_of("{{ 1 // 0 }}"), HasSubstr("division by zero"));
  EXPECT_THAT(error_of("{{ 'a' | nonsense }}"), HasSubstr("no filter named 'nonsense'"));
  EXPECT_THAT(error_of("{{ 1 is nonsense }}"), HasSubstr("no test named 'nonsense'"));
  EXPECT_THAT(error_of("{{ messages.append(1) }}"), HasSubstr("would change a value"));
  EXPECT_THAT(error_of("{{ 9223372036854775 * 100000 }}"), HasSubstr("integer overflow"));
}

TEST(ChatTemplate, EndlessAndHugeWorkIsCutOff) {
  EXPECT_THAT(error_of("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
              HasSubstr("macros are called deeper than 64"));
  EXPECT_THAT(
      error_of("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% set c = "
               "1 + 1 %}{% for d in range(9999) %}{% set e = d %}{% endfor %}{% endfor %}"),
      HasSubstr("runs longer than"));
  EXPECT_THAT(error_of("{% set x = 'a' * 1000000 %}{% for i in range(100) %}{{ x }}{% endfor %}"),
              HasSubstr("writes more than"));
  EXPECT_THAT(error_of("{{ 'a' * 99999999 }}"), HasSubstr("repeated string is too long"));
  EXPECT_THAT(error_of("{{ range(100001) }}"), HasSubstr("range too big"));
  EXPECT_THAT(error_of("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}"),
              HasSubstr("nested deeper than 100"));
  std::string sum = "{{ 1";
  for (int i = 0; i < 100000; ++i) sum += "+1";
  EXPECT_THAT(error_of(sum + " }}"), HasSubstr("has more than 3000 operands"));
  EXPECT_THAT(error_of("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}"),
              HasSubstr("nested deeper than 200"));
}

// Lists nested as deep as a template has steps are freed without recursion.
TEST(ChatTemplate, DeepValuesDoNotExhaustTheStack) {
  EXPECT_EQ(render("{% set ns = namespace(x=1) %}{% for i in range(90000) %}"
                   "{% set ns.x = [ns.x] %}{% endfor %}done"),
            "done");
  EXPECT_EQ(render("{% set ns = namespace(x=1) %}{% for i in range(90000) %}"
                   "{% set ns.x = namespace(x=ns.x) %}{% endfor %}done"),
            "done");
  EXPECT_THAT(error_of("{% set ns = namespace(x=1, y=1) %}{% for i in range(90000) %}"
                       "{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}"
                       "{{ ns.x == ns.y }}"),
              HasSubstr("nested deeper than 200"));
}

// Every prefix of a real template either renders or is refused with an Error.
TEST(ChatTemplate, TruncatedTemplatesNeverCrash) {
  const std::string source =
      read_text(std::filesystem::path(QUARRY_SOURCE_DIR) /
                "tests/golden/chat_templates/templates/language_features.jinja");
  ASSERT_GT(source.size(), 1000u);
  for (size_t size = 0; size < source.size(); ++size) {
    try {
      render(source.substr(0, size));
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("chat template"));
    }
  }
}

TEST(ChatTemplate, ExtraVariablesReachTheTemplate) {
  EXPECT_EQ(render("{{ n }} {{ list | tojson }} {{ tools is none }} {{ gone is defined }}",
                   {{"n", 3}, {"list", {1, "é", nullptr}}}),
            "3 [1, \"é\", null] True False");
}

}  // namespace
}  // namespace quarry
