#pragma once

#include <string>

#include "data/core/json.h"

namespace quarry {

// Field of a tokenizer.json component. Throws kCorruptData naming source, component and field when
// it is missing or of another type.
template <typename T>
T require_field(const Json& config, const char* field, const std::string& source) {
  const auto found = config.is_object() ? config.find(field) : config.end();
  QUARRY_CHECK(config.is_object() && found != config.end(), ErrorCode::kCorruptData, source,
               ": tokenizer component lacks the field \"", field, "\"");
  try {
    return found->template get<T>();
  } catch (const Json::exception& e) {
    throw_error(ErrorCode::kCorruptData, source, ": field \"", field, "\": ", e.what());
  }
}

// As above; `fallback` when the field is missing or null.
template <typename T>
T field_or(const Json& config, const char* field, T fallback, const std::string& source) {
  const auto found = config.find(field);
  if (found == config.end() || found->is_null()) return fallback;
  return require_field<T>(config, field, source);
}

// A pattern is {"String": "..."} or {"Regex": "..."}: the text of whichever is there.
struct PatternField {
  std::string text;
  bool is_regex = false;
};
inline PatternField require_pattern(const Json& config, const std::string& source) {
  const Json pattern = require_field<Json>(config, "pattern", source);
  PatternField result;
  result.is_regex = pattern.is_object() && pattern.contains("Regex");
  result.text = require_field<std::string>(pattern, result.is_regex ? "Regex" : "String", source);
  return result;
}

}  // namespace quarry
