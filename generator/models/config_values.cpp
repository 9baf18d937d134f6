#include "generator/models/config_values.h"

#include <cmath>
#include <limits>

namespace quarry {
namespace {

constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();

const Json& empty_object() {
  static const Json empty = Json::object();
  return empty;
}

}  // namespace

ConfigValues::ConfigValues(const Json& json, std::string source)
    : json_(&json), source_(std::move(source)) {
  QUARRY_CHECK(json.is_object(), ErrorCode::kCorruptData, source_, ": holds a JSON ",
               json.type_name(), ", an object is wanted");
}

bool ConfigValues::has(const char* key) const {
  const auto it = json_->find(key);
  return it != json_->end() && !it->is_null();
}

void ConfigValues::throw_wrong(const char* key, const char* wanted) const {
  const std::string found = has(key) ? dump_json(json_->at(key)).substr(0, 80) : "nothing";
  throw_error(ErrorCode::kCorruptData, source_, ": '", key, "' is ", found, ", wanted ", wanted);
}

int64_t ConfigValues::size(const char* key) const {
  if (!has(key) || !json_->at(key).is_number_integer()) throw_wrong(key, "a positive integer");
  const Json& value = json_->at(key);
  const bool too_large =
      value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMaxSize);
  if (too_large || value.get<int64_t>() < 1) throw_wrong(key, "an integer in 1 .. 2147483647");
  return value.get<int64_t>();
}

int64_t ConfigValues::size_or(const char* key, int64_t fallback) const {
  return has(key) ? size(key) : fallback;
}

int32_t ConfigValues::token_or(const char* key, int32_t fallback) const {
  if (!has(key)) return fallback;
  if (!json_->at(key).is_number_integer()) throw_wrong(key, "a token's id");
  const auto id = json_->at(key).get<int64_t>();
  if (id < 0 || id > kMaxSize) throw_wrong(key, "a token's id");
  return static_cast<int32_t>(id);
}

double ConfigValues::number(const char* key) const {
  if (!has(key) || !json_->at(key).is_number()) throw_wrong(key, "a number");
  const double value = json_->at(key).get<double>();
  if (!std::isfinite(value)) throw_wrong(key, "a finite number");
  return value;
}

double ConfigValues::number_or(const char* key, double fallback) const {
  return has(key) ? number(key) : fallback;
}

bool ConfigValues::flag_or(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!json_->at(key).is_boolean()) throw_wrong(key, "true or false");
  return json_->at(key).get<bool>();
}

std::string ConfigValues::text_or(const char* key, const std::string& fallback) const {
  if (!has(key)) return fallback;
  if (!json_->at(key).is_string()) throw_wrong(key, "a string");
  return json_->at(key).get<std::string>();
}

std::vector<std::string> ConfigValues::texts_or_empty(const char* key) const {
  if (!has(key)) return {};
  if (!json_->at(key).is_array()) throw_wrong(key, "a list of strings");
  std::vector<std::string> texts;
  for (const Json& text : json_->at(key)) {
    if (!text.is_string()) throw_wrong(key, "a list of strings");
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

ConfigValues ConfigValues::object(const char* key) const {
  if (!has(key)) return ConfigValues(empty_object(), source_);
  if (!json_->at(key).is_object()) throw_wrong(key, "an object");
  return ConfigValues(json_->at(key), source_);
}

void ConfigValues::require_text(const char* key, const std::string& wanted) const {
  const std::string found = text_or(key, wanted);
  QUARRY_CHECK(found == wanted, ErrorCode::kInvalidArgument, source_, ": '", key, "' is '", found,
               "', only '", wanted, "' is supported");
}

void ConfigValues::require_absent(const char* key) const {
  QUARRY_CHECK(!has(key), ErrorCode::kInvalidArgument, source_, ": '", key, "' is not supported");
}

int64_t gguf_size(const GgufFile& file, const char* key) {
  const int64_t value = file.get_int(key);
  QUARRY_CHECK(value >= 1 && value <= kMaxSize, ErrorCode::kCorruptData, file.description(), ": '",
               key, "' is ", value, ", wanted 1 .. ", kMaxSize);
  return value;
}

int64_t gguf_size_or(const GgufFile& file, const char* key, int64_t fallback) {
  return file.has(key) ? gguf_size(file, key) : fallback;
}

void gguf_require(const GgufFile& file, const char* key, int64_t wanted) {
  const int64_t found = file.find_int(key).value_or(wanted);
  QUARRY_CHECK(found == wanted, ErrorCode::kInvalidArgument, file.description(), ": '", key,
               "' is ", found, ", only ", wanted, " is supported");
}

}  // namespace quarry
