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

// Reads and parses a file of at most `max_bytes`. Throws kNotFound, kCorruptData.
Json read_json_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 30);

// Text of a JSON value; invalid UTF-8 in strings becomes U+FFFD instead of an exception.
std::string dump_json(const Json& value, int indent = -1);
std::string dump_json(const OrderedJson& value, int indent = -1);

}  // namespace quarry
