#pragma once

#include <string>

#include "data/text/jinja/value.h"

namespace quarry::jinja {

// value | name(arguments). Faults for an unknown filter, naming it, and for wrong arguments.
Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments);
bool is_filter(const std::string& name);

// value is name(arguments).
bool apply_test(const std::string& name, const Value& value, const Arguments& arguments);
bool is_test(const std::string& name);

// The method `name` of a string, list or dictionary bound to `value`; undefined when it has none.
Value find_method(const Value& value, const std::string& name);

// value.name and value[key], as Jinja2 looks them up.
Value get_attribute(const Value& value, const std::string& name);
Value get_item(const Value& value, const Value& key);
// value[start:stop:step]; null: left out.
Value get_slice(const Value& value, const Value* start, const Value* stop, const Value* step);

// "+", "-", "*", "/", "//", "%", "**", "~".
Value apply_binary(const std::string& name, const Value& left, const Value& right);
Value negate(const Value& value);

// Functions that every template sees: range, namespace, dict, raise_exception, strftime_now.
Value find_global(const std::string& name);

// --- shared by the builtins ---

// Integer argument. Faults when it is there and is no integer.
int64_t integer_argument(const Arguments& arguments, size_t index, const char* name,
                         int64_t fallback);
bool bool_argument(const Arguments& arguments, size_t index, const char* name, bool fallback);
std::string text_argument(const Arguments& arguments, size_t index, const char* name,
                          const std::string& fallback);

std::string upper_case(const std::string& text);
std::string lower_case(const std::string& text);
std::string capitalize(const std::string& text);
// Python's str.strip: `characters` empty means white space.
std::string strip(const std::string& text, const std::string& characters, bool left, bool right);
// Python's str.replace; count < 0 means all.
std::string replace_text(const std::string& text, const std::string& from, const std::string& to,
                         int64_t count);

}  // namespace quarry::jinja
