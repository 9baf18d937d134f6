#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace quarry {

extern const char* const kWindows1252;

struct DecodedText {
  std::string text;      // valid UTF-8
  int64_t replaced = 0;  // places that the charset does not know, U+FFFD in the text
};
// Bytes of a charset that the C library's iconv knows by this name; nothing when it knows none.
std::optional<DecodedText> decode_charset(std::string_view bytes, const std::string& charset);

// UTF-16 that comes in pieces of any size.
class Utf16Decoder {
 public:
  explicit Utf16Decoder(bool big_endian) : big_endian_(big_endian) {}
  // Appends UTF-8; what lacks its other half waits for the next piece.
  void decode(std::string_view bytes, std::string& out);
  // Appends what stands for that which still waits.
  void finish(std::string& out);
  // Lone surrogates and a byte too many, U+FFFD in the text.
  int64_t replaced() const { return replaced_; }

 private:
  void add_unit(char32_t unit, std::string& out);
  void replace(std::string& out);

  bool big_endian_;
  std::optional<unsigned char> first_byte_;  // of a unit
  char32_t high_surrogate_ = 0;              // 0: none waits
  int64_t replaced_ = 0;
};

// What a page says its charset is: by a <meta> or an XML declaration in its first 1024 bytes. Empty
// when it says none, UTF-8 or UTF-16, which such a declaration cannot be written in. ISO-8859-1 and
// ASCII mean Windows-1252, as with browsers.
std::string declared_html_charset(std::string_view html);

// Whether bytes that are no UTF-8 look like Windows-1252: no control characters, no bytes that it
// leaves undefined, and of letters and of signs at most half beyond ASCII, unlike other charsets.
bool looks_like_windows_1252(std::string_view bytes);

}  // namespace quarry
