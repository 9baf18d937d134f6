#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "data/core/json.h"

namespace quarry {

// An integer that fits T, which Json's own conversion would cut. Throws kCorruptData.
template <typename T>
T read_integer(const Json& value, const char* field, const std::string& source) {
  const bool fits =
      value.is_number_unsigned()
          ? value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<T>::max())
          : value.is_number_integer() &&
                value.get<int64_t>() >= int64_t{std::numeric_limits<T>::min()};
  QUARRY_CHECK(fits, ErrorCode::kCorruptData, source, ": \"", field, "\" is ", dump_json(value),
               ", wanted an integer up to ", std::numeric_limits<T>::max());
  return static_cast<T>(value.get<int64_t>());
}

// Field of a tokenizer.json component. Throws kCorruptData naming source, component and field when
// it is missing or of another type.
template <typename T>
T require_field(const Json& config, const char* field, const std::string& source) {
  const auto found = config.is_object() ? config.find(field) : config.end();
  QUARRY_CHECK(config.is_object() && found != config.end(), ErrorCode::kCorruptData, source,
               ": tokenizer component lacks the field \"", field, "\"");
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    return read_integer<T>(*found, field, source);
  }
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
