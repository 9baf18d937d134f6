#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/core/json.h"

namespace quarry {

// What json_schema.cpp reads of one object of a schema. `path` names the object in errors, all of
// which are kInvalidArgument.

[[noreturn]] void fail_schema(const std::string& path, const std::string& what);

// A JSON value for a message, cut to a readable length.
std::string shown_json(const OrderedJson& value);

// Null when absent.
const OrderedJson* find_keyword(const OrderedJson& schema, const char* keyword);

// The one keyword of $ref, const, enum, anyOf, oneOf and allOf that is there; null: none. Refuses
// keywords that we do not support, and those that would narrow that one.
const char* check_keywords(const OrderedJson& schema, const std::string& path);

// What `type` names, or without it the types that its keywords are about; none: any.
std::vector<std::string> types_of(const OrderedJson& schema, const std::string& path);
bool is_of_type(const OrderedJson& value, const std::string& type);

// A count such as minItems.
std::optional<int64_t> read_count(const OrderedJson& schema, const char* keyword,
                                  const std::string& path);

// minimum, maximum and the exclusive ones, rounded to the integers that they allow.
struct IntegerBounds {
  std::optional<int64_t> least;
  std::optional<int64_t> most;
};
IntegerBounds read_integer_bounds(const OrderedJson& schema, const std::string& path);
std::optional<double> read_number(const OrderedJson& schema, const char* keyword,
                                  const std::string& path);

}  // namespace quarry
