#include "data/core/json.h"

#include <gtest/gtest.h>

namespace quarry {
namespace {

TEST(Json, OrderedMembersKeepTheOrderOfTheText) {
  const OrderedJson json =
      parse_ordered_json(R"({"b": 1, "a": {"z": 2, "y": 3}})", "text", ErrorCode::kInvalidArgument);
  EXPECT_EQ(dump_json(json), R"({"b":1,"a":{"z":2,"y":3}})");
  EXPECT_THROW(parse_ordered_json("{", "text", ErrorCode::kInvalidArgument), Error);
}

TEST(Json, ErrorsTellTheByteAndAreShort) {
  const auto message = [](const std::string& text) {
    try {
      parse_json(text, "text", ErrorCode::kInvalidArgument);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string start = "text: not valid JSON at byte 2: parse error at line 1, column 2: ";
  EXPECT_EQ(message("{").substr(0, start.size()), start);
  EXPECT_EQ(message("[1e999]"), "text: not valid JSON: number overflow parsing '1e999'");
  EXPECT_LT(message("[\"" + std::string(100000, 'a')).size(), 500U);
}

TEST(Json, MembersAreFoundInTheText) {
  const std::string text =
      R"( {"a": {"b": "}, \"c\": 1", "c": [1, {"d": 2}]}, "c" : -3 , "d":"\\", "e": "c", "a2": null} )";
  EXPECT_EQ(find_member_text(text, "a"), R"( {"b": "}, \"c\": 1", "c": [1, {"d": 2}]})");
  EXPECT_EQ(find_member_text(find_member_text(text, "a"), "c"), R"( [1, {"d": 2}])");
  EXPECT_EQ(find_member_text(text, "c"), " -3 ");
  EXPECT_EQ(find_member_text(text, "d"), R"("\\")");
  EXPECT_EQ(find_member_text(text, "a2"), " null");
  EXPECT_EQ(find_member_text(text, "b"), "");
  EXPECT_EQ(find_member_text("{}", "a"), "");
  EXPECT_EQ(find_member_text(R"({"a":1,"a":2})", "a"), "2");  // as parse_json() takes the last
}

}  // namespace
}  // namespace quarry
