#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

// Values of configuration fields as text. Every function throws kInvalidArgument "NAME is "TEXT",
// wanted ..." naming the field.
namespace quarry::config_text {

[[noreturn]] void throw_value(const std::string& name, const std::string& text,
                              const std::string& wanted);

int64_t to_integer(const std::string& name, const std::string& text, int64_t min, int64_t max);
uint64_t to_unsigned(const std::string& name, const std::string& text);
double to_real(const std::string& name, const std::string& text, double min, double max);
// true, false, on, off, yes, no, 1, 0.
bool to_flag(const std::string& name, const std::string& text);
// Index of `text` in `choices`.
size_t to_choice(const std::string& name, const std::string& text,
                 const std::vector<std::string>& choices);
// "a,b", "[a, b]" (YAML), "" and "[]".
std::vector<std::string> to_list(const std::string& name, const std::string& text);
// "{key: value}" (YAML), "" and "{}"; in the order of the text, keys unique.
std::vector<std::pair<std::string, std::string>> to_map(const std::string& name,
                                                        const std::string& text);

// The shortest text that reads back to the same value.
std::string from_real(double value);
// YAML flow: [a, "b, c"] and {key: value}.
std::string from_list(const std::vector<std::string>& values);
std::string from_map(const std::vector<std::pair<std::string, std::string>>& values);

}  // namespace quarry::config_text
