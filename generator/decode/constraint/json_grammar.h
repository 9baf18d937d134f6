#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "generator/decode/constraint/expr.h"

namespace quarry {

// The parts of JSON as texts that a model may write: one blank at most behind "," and ":", none
// elsewhere, and numbers of bounded length, so that no model goes on with them for ever.

Expr json_comma();
Expr json_colon();
// -? and at most 18 digits, at most 17 decimals, an exponent of at most two digits.
Expr json_number(bool may_be_negative);
// least .. most, whichever is given, and at most 18 digits. REQUIRES: least <= most.
Expr json_integer(std::optional<int64_t> least, std::optional<int64_t> most);
// One character of a string, in any of its spellings but escapes of halves of surrogate pairs.
Expr json_character();
// With its quotes.
Expr json_string();
// A member's name that is none of `names` and has no escapes, with its quotes.
Expr json_other_key(const std::vector<std::string>& names);
// "[", any values, "]" and "{", any members, "}". `value`: the rule of a value.
Expr json_any_array(size_t value);
Expr json_any_object(size_t value);
// Any value; the expression of rule number `value`.
Expr json_any_value(size_t value);

// Longest numbers that json_integer() gives.
constexpr int64_t kLargestJsonInteger = 999'999'999'999'999'999;

}  // namespace quarry
