#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace quarry {

// GPT-2's reversible map from the 256 bytes to printable characters (Radford et al. 2019):
// printable Latin-1 stands for itself, the others for U+0100 onward, in order.
void append_byte_level(std::string& out, std::string_view bytes);

// The bytes behind mapped characters; empty optional when a character is not of the map.
std::optional<std::string> decode_byte_level(std::string_view mapped);

}  // namespace quarry
