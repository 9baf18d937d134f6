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

// What a page says its charset is: by a <meta> or an XML declaration in its first 1024 bytes. Empty
// when it says none, UTF-8 or UTF-16, which such a declaration cannot be written in. ISO-8859-1 and
// ASCII mean Windows-1252, as with browsers.
std::string declared_html_charset(std::string_view html);

// Whether bytes that are no UTF-8 look like Windows-1252: no control characters, no bytes that it
// leaves undefined, and at most half of the letters beyond ASCII, as in no Western language.
bool looks_like_windows_1252(std::string_view bytes);

}  // namespace quarry
