#include "data/text/byte_level.h"

#include <array>
#include <cstdint>

#include "data/text/utf8.h"

namespace quarry {
namespace {

struct ByteMap {
  std::array<std::string, 256> text;
  std::array<int16_t, 512> byte_of;  // by code point; -1 when unused

  ByteMap() {
    byte_of.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      const char32_t c = printable ? static_cast<char32_t>(byte) : next++;
      append_utf8(text[static_cast<size_t>(byte)], c);
      byte_of[c] = static_cast<int16_t>(byte);
    }
  }
};

const ByteMap& byte_map() {
  static const ByteMap map;
  return map;
}

}  // namespace

void append_byte_level(std::string& out, std::string_view bytes) {
  const ByteMap& map = byte_map();
  for (const char c : bytes) out += map.text[static_cast<unsigned char>(c)];
}

std::optional<std::string> decode_byte_level(std::string_view mapped) {
  const ByteMap& map = byte_map();
  std::string bytes;
  bytes.reserve(mapped.size());
  for (size_t i = 0; i < mapped.size();) {
    const char32_t c = next_code_point(mapped, i);
    if (c >= map.byte_of.size() || map.byte_of[c] < 0) return std::nullopt;
    bytes += static_cast<char>(map.byte_of[c]);
  }
  return bytes;
}

}  // namespace quarry
