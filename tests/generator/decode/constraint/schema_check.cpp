#include "tests/generator/decode/constraint/schema_check.h"

#include <cmath>
#include <regex>

#include "data/text/utf8.h"

namespace quarry::test {
namespace {

bool has_type(const Json& value, const std::string& type) {
  if (type == "integer") {
    return value.is_number() && value.get<double>() == std::floor(value.get<double>());
  }
  return type == "number" ? value.is_number() : value.type_name() == type;
}

std::string object_error(const Json& schema, const Json& value, const Json& root) {
  const Json properties = schema.value("properties", Json::object());
  for (const Json& name : schema.value("required", Json::array())) {
    if (!value.contains(name.get<std::string>())) return name.get<std::string>() + " is missing";
  }
  for (const auto& [name, member] : value.items()) {
    Json expected = schema.value("additionalProperties", Json(true));
    if (properties.contains(name)) expected = properties[name];
    const std::string error = schema_error(expected, member, root);
    if (!error.empty()) return name + ": " + error;
  }
  return "";
}

std::string array_error(const Json& schema, const Json& value, const Json& root) {
  const Json prefix = schema.value("prefixItems", Json::array());
  if (value.size() < schema.value("minItems", size_t{0})) return "too few items";
  if (value.size() > schema.value("maxItems", value.size())) return "too many items";
  for (size_t i = 0; i < value.size(); ++i) {
    const Json expected = i < prefix.size() ? prefix[i] : schema.value("items", Json(true));
    const std::string error = schema_error(expected, value[i], root);
    if (!error.empty()) return std::to_string(i) + ": " + error;
  }
  return "";
}

std::string string_error(const Json& schema, const std::string& text) {
  const int64_t length = count_code_points(text);
  if (length < schema.value("minLength", int64_t{0})) return "too short";
  if (length > schema.value("maxLength", length)) return "too long";
  if (schema.contains("pattern") &&
      !std::regex_search(text, std::regex(schema["pattern"].get<std::string>()))) {
    return "does not match";
  }
  return "";
}

std::string number_error(const Json& schema, double value) {
  if (value < schema.value("minimum", value) || value > schema.value("maximum", value)) {
    return "out of range";
  }
  if (value <= schema.value("exclusiveMinimum", value - 1)) return "too small";
  if (value >= schema.value("exclusiveMaximum", value + 1)) return "too large";
  return "";
}

std::string type_error(const Json& schema, const Json& value) {
  if (!schema.contains("type")) return "";
  const Json types = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
  for (const Json& type : types) {
    if (has_type(value, type.get<std::string>())) return "";
  }
  return value.dump() + " is not of type " + types.dump();
}

}  // namespace

std::string schema_error(const Json& schema, const Json& value, const Json& root) {
  if (schema.is_boolean()) return schema.get<bool>() ? "" : "nothing is allowed";
  if (schema.contains("$ref")) {
    const std::string ref = schema["$ref"];
    return schema_error(root.at(Json::json_pointer(ref.substr(1))), value, root);
  }
  for (const char* keyword : {"anyOf", "oneOf", "allOf"}) {
    if (!schema.contains(keyword)) continue;
    std::string errors;
    for (const Json& alternative : schema[keyword]) {
      const std::string error = schema_error(alternative, value, root);
      if (error.empty()) return "";
      errors += error + "; ";
    }
    return errors;
  }
  std::string error = type_error(schema, value);
  if (!error.empty()) return error;
  if (schema.contains("const") && schema["const"] != value) return "not the constant";
  if (schema.contains("enum")) {
    const Json& values = schema["enum"];
    if (std::find(values.begin(), values.end(), value) == values.end()) return "not in enum";
  }
  if (value.is_object()) return object_error(schema, value, root);
  if (value.is_array()) return array_error(schema, value, root);
  if (value.is_string()) return string_error(schema, value.get<std::string>());
  if (value.is_number()) return number_error(schema, value.get<double>());
  return "";
}

std::string schema_error(const std::string& schema, const std::string& text) {
  const Json parsed = Json::parse(schema);
  try {
    return schema_error(parsed, parse_json(text, "text", ErrorCode::kInternal), parsed);
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace quarry::test
