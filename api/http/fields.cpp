#include "api/http/fields.h"

#include <cmath>

namespace quarry::http {
namespace {

// A JSON value for an error message, cut to a readable length.
std::string shown(const Json& value) {
  std::string text = dump_json(value);
  constexpr size_t kLongest = 80;
  if (text.size() <= kLongest) return text;
  size_t cut = kLongest;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
  return text.substr(0, cut) + "...";
}

}  // namespace

const Json* Fields::find(const char* name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void Fields::fail(const char* name, const std::string& wanted) const {
  throw bad_request(full_name(name), concat("'", full_name(name), "' is ", shown(object_.at(name)),
                                            ", expected ", wanted));
}

std::optional<double> Fields::number(const char* name, double low, double high) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const double found = value->is_number() ? value->get<double>() : std::nan("");
  if (!(found >= low && found <= high)) fail(name, concat("a number from ", low, " to ", high));
  return found;
}

std::optional<int64_t> Fields::integer(const char* name, int64_t low, int64_t high) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const double found = value->is_number() ? value->get<double>() : std::nan("");
  const bool whole = found == std::floor(found) && std::fabs(found) <= 9007199254740992.0;
  if (!whole || found < static_cast<double>(low) || found > static_cast<double>(high)) {
    fail(name, concat("a whole number from ", low, " to ", high));
  }
  return static_cast<int64_t>(found);
}

std::optional<bool> Fields::boolean(const char* name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) fail(name, "true or false");
  return value->get<bool>();
}

std::optional<std::string> Fields::string(const char* name) const {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) fail(name, "a string");
  return value->get<std::string>();
}

void Fields::only_zero(const char* name) const {
  const Json* value = find(name);
  if (value != nullptr && !(value->is_number() && value->get<double>() == 0.0)) {
    fail(name, "0: this server does not support it");
  }
}

void Fields::only_one(const char* name) const {
  const Json* value = find(name);
  if (value != nullptr && !(value->is_number() && value->get<double>() == 1.0)) {
    fail(name, "1: this server makes one answer per request");
  }
}

void Fields::only_false(const char* name) const {
  const Json* value = find(name);
  if (value != nullptr && !(value->is_boolean() && !value->get<bool>())) {
    fail(name, "false: this server does not support it");
  }
}

void Fields::only_empty(const char* name, const std::string& why) const {
  const Json* value = find(name);
  if (value == nullptr) return;
  const bool empty = value->is_string() ? value->get_ref<const std::string&>().empty()
                                        : (value->is_structured() && value->empty());
  if (!empty) fail(name, "nothing: " + why);
}

Json parse_body(const std::string& body) {
  if (body.find_first_not_of(" \t\r\n") == std::string::npos) {
    throw ApiError(400, "the request has no body, expected a JSON object");
  }
  Json parsed = parse_json(body, "request body", ErrorCode::kInvalidArgument);
  if (!parsed.is_object()) {
    throw ApiError(
        400, concat("the request body is a JSON ", parsed.type_name(), ", expected an object"));
  }
  return parsed;
}

}  // namespace quarry::http
