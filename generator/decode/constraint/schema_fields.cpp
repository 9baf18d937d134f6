#include "generator/decode/constraint/schema_fields.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "generator/decode/constraint/json_grammar.h"

namespace quarry {
namespace {

constexpr int64_t kLargestCount = 100000;

using Words = std::vector<std::string>;

const Words kAnnotations = {"title",      "description", "default",   "examples",
                            "$schema",    "$id",         "$comment",  "$defs",
                            "deprecated", "readOnly",    "writeOnly", "definitions"};

// Keywords about values of one type.
struct TypeKeywords {
  const char* type;
  Words keywords;
};
const TypeKeywords kTypeKeywords[] = {
    {"object", {"properties", "required", "additionalProperties"}},
    {"array", {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}},
    {"string", {"pattern", "minLength", "maxLength", "format"}},
    {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}},
};
const Words kTypes = {"object", "array", "string", "number", "integer", "boolean", "null"};

const char* const kWholeKeywords[] = {"$ref", "const", "enum", "anyOf", "oneOf", "allOf"};

bool contains(const Words& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

bool is_type_keyword(const std::string& keyword) {
  return std::any_of(std::begin(kTypeKeywords), std::end(kTypeKeywords),
                     [&](const TypeKeywords& group) { return contains(group.keywords, keyword); });
}

int64_t clamp_to_integer(double value) {
  constexpr double kLargest = static_cast<double>(kLargestJsonInteger);
  return static_cast<int64_t>(std::clamp(value, -kLargest, kLargest));
}

}  // namespace

void fail_schema(const std::string& path, const std::string& what) {
  throw_error(ErrorCode::kInvalidArgument, "JSON schema at ", path, ": ", what);
}

std::string shown_json(const OrderedJson& value) {
  const std::string text = dump_json(value);
  return text.size() <= 80 ? text : text.substr(0, 80) + "...";
}

const OrderedJson* find_keyword(const OrderedJson& schema, const char* keyword) {
  const auto found = schema.find(keyword);
  return found == schema.end() ? nullptr : &*found;
}

const char* check_keywords(const OrderedJson& schema, const std::string& path) {
  const char* whole = nullptr;
  for (const char* keyword : kWholeKeywords) {
    if (whole == nullptr && schema.contains(keyword)) whole = keyword;
  }
  const bool has_values =
      whole != nullptr && (whole == std::string("enum") || whole == std::string("const"));
  for (const auto& [keyword, value] : schema.items()) {
    if (contains(kAnnotations, keyword) || (whole != nullptr && keyword == whole)) continue;
    const bool is_known = keyword == "type" || is_type_keyword(keyword) ||
                          std::find(std::begin(kWholeKeywords), std::end(kWholeKeywords),
                                    keyword) != std::end(kWholeKeywords);
    if (!is_known) fail_schema(path, concat("the keyword \"", keyword, "\" is not supported"));
    if (whole == nullptr || (has_values && keyword == "type")) continue;
    fail_schema(path, concat("\"", keyword, "\" beside \"", whole, "\" is not supported"));
  }
  return whole;
}

std::vector<std::string> types_of(const OrderedJson& schema, const std::string& path) {
  std::vector<std::string> types;
  const OrderedJson* type = find_keyword(schema, "type");
  if (type == nullptr) {
    for (const TypeKeywords& group : kTypeKeywords) {
      if (std::any_of(group.keywords.begin(), group.keywords.end(),
                      [&](const std::string& keyword) { return schema.contains(keyword); })) {
        types.emplace_back(group.type);
      }
    }
    return types;
  }
  const OrderedJson list = type->is_array() ? *type : OrderedJson::array({*type});
  for (const OrderedJson& item : list) {
    if (!item.is_string() || !contains(kTypes, item.get<std::string>())) {
      fail_schema(path, concat("\"type\" is ", shown_json(*type),
                               ", expected object, array, string, number, integer, boolean, null "
                               "or a list of them"));
    }
    types.push_back(item.get<std::string>());
  }
  if (types.empty()) fail_schema(path, "\"type\" is an empty list");
  return types;
}

bool is_of_type(const OrderedJson& value, const std::string& type) {
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "number") return value.is_number();
  return value.is_number() &&
         (value.is_number_integer() || value.get<double>() == std::floor(value.get<double>()));
}

std::optional<int64_t> read_count(const OrderedJson& schema, const char* keyword,
                                  const std::string& path) {
  const std::optional<double> count = read_number(schema, keyword, path);
  if (!count) return std::nullopt;
  if (!(*count >= 0 && *count <= kLargestCount && *count == std::floor(*count))) {
    fail_schema(path, concat("\"", keyword, "\" is ", shown_json(schema.at(keyword)),
                             ", expected a whole number from 0 to ", kLargestCount));
  }
  return static_cast<int64_t>(*count);
}

std::optional<double> read_number(const OrderedJson& schema, const char* keyword,
                                  const std::string& path) {
  const OrderedJson* value = find_keyword(schema, keyword);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) {
    fail_schema(path, concat("\"", keyword, "\" is ", shown_json(*value), ", expected a number"));
  }
  return value->get<double>();
}

IntegerBounds read_integer_bounds(const OrderedJson& schema, const std::string& path) {
  IntegerBounds bounds;
  const auto raise = [&](double value) {
    const int64_t least = clamp_to_integer(value);
    bounds.least = std::max(bounds.least.value_or(least), least);
  };
  const auto lower = [&](double value) {
    const int64_t most = clamp_to_integer(value);
    bounds.most = std::min(bounds.most.value_or(most), most);
  };
  if (const auto value = read_number(schema, "minimum", path)) raise(std::ceil(*value));
  if (const auto value = read_number(schema, "exclusiveMinimum", path))
    raise(std::floor(*value) + 1);
  if (const auto value = read_number(schema, "maximum", path)) lower(std::floor(*value));
  if (const auto value = read_number(schema, "exclusiveMaximum", path))
    lower(std::ceil(*value) - 1);
  if (bounds.least && bounds.most && *bounds.least > *bounds.most) {
    fail_schema(path,
                concat("no integer is at least ", *bounds.least, " and at most ", *bounds.most));
  }
  return bounds;
}

}  // namespace quarry
