#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "data/core/error.h"

namespace quarry {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// Deepest nesting that parse_json accepts; deeper text is refused before it can exhaust the stack.
constexpr int kMaxJsonDepth = 128;

// Parses one JSON value. `source` names the text in errors. Throws `code` with the byte offset on
// malformed text, invalid UTF-8 or nesting deeper than kMaxJsonDepth.
Json parse_json(std::string_view text, const std::string& source, ErrorCode code);

// The same with members of objects in the order of the text, for small texts: the time grows with
// the square of an object's members.
OrderedJson parse_ordered_json(std::string_view text, const std::string& source, ErrorCode code);

// The text of the value of a member `name` of a JSON object; empty: none. REQUIRES: `object` is an
// object that parse_json() accepts. A name written with escapes is not found.
std::string_view find_member_text(std::string_view object, std::string_view name);

// Reads and parses a file of at most `max_bytes`. Throws kNotFound, kCorruptData.
Json read_json_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 30);

// Text of a JSON value; invalid UTF-8 in strings becomes U+FFFD instead of an exception.
std::string dump_json(const Json& value, int indent = -1);
std::string dump_json(const OrderedJson& value, int indent = -1);

}  // namespace quarry
