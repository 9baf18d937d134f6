#include "indexer/readers/charset.h"

#include <iconv.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <map>

#include "data/text/utf8.h"

namespace quarry {

const char* const kWindows1252 = "windows-1252";

namespace {

class Converter {
 public:
  explicit Converter(const std::string& charset)
      : handle_(::iconv_open("UTF-8", charset.c_str())) {}
  Converter(const Converter&) = delete;
  Converter& operator=(const Converter&) = delete;
  ~Converter() {
    if (is_open()) ::iconv_close(handle_);
  }
  bool is_open() const { return handle_ != reinterpret_cast<iconv_t>(-1); }

  // Appends what comes of bytes from `at` on; false where one stands that is none of the charset.
  bool convert(std::string_view bytes, size_t& at, std::string& out) {
    std::array<char, 16384> buffer;
    while (true) {
      char* from = const_cast<char*>(bytes.data()) + at;  // iconv writes nothing there
      size_t left = bytes.size() - at;
      char* to = buffer.data();
      size_t room = buffer.size();
      const size_t result = ::iconv(handle_, &from, &left, &to, &room);
      const bool is_full = result == static_cast<size_t>(-1) && errno == E2BIG;
      out.append(buffer.data(), buffer.size() - room);
      at = bytes.size() - left;
      if (is_full) continue;
      flush(out);
      return result != static_cast<size_t>(-1);
    }
  }

 private:
  // A character that iconv keeps back, since a mark might have followed it.
  void flush(std::string& out) {
    std::array<char, 64> buffer;
    char* to = buffer.data();
    size_t room = buffer.size();
    ::iconv(handle_, nullptr, nullptr, &to, &room);
    out.append(buffer.data(), buffer.size() - room);
  }

  iconv_t handle_;
};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f'; }

// The name after `key` and '=' in a tag, in quotes or not; empty: none.
std::string value_of(const std::string& tag, const std::string& key) {
  size_t at = tag.find(key);
  if (at == std::string::npos) return "";
  at += key.size();
  while (at < tag.size() && is_space(tag[at])) ++at;
  if (at == tag.size() || tag[at] != '=') return "";
  ++at;
  while (at < tag.size() && (is_space(tag[at]) || tag[at] == '"' || tag[at] == '\'')) ++at;
  const size_t start = at;
  while (at < tag.size() && (std::isalnum(static_cast<unsigned char>(tag[at])) != 0 ||
                             std::string_view("-_.:").find(tag[at]) != std::string_view::npos)) {
    ++at;
  }
  return tag.substr(start, at - start);
}

// As iconv has it; what browsers take for more than it names, likewise. Nothing for charsets of
// more than a byte for ASCII, in which the declaration could not have been read.
std::string charset_of_label(const std::string& label) {
  constexpr size_t kLongestLabel = 40;
  static const std::map<std::string, const char*> kWider = {
      {"iso-8859-1", kWindows1252}, {"iso8859-1", kWindows1252},    {"latin1", kWindows1252},
      {"ascii", kWindows1252},      {"us-ascii", kWindows1252},     {"cp1252", kWindows1252},
      {"l1", kWindows1252},         {"iso-8859-9", "windows-1254"}, {"gb2312", "gb18030"},
      {"gbk", "gb18030"},           {"shift_jis", "cp932"},         {"sjis", "cp932"},
      {"euc-kr", "cp949"}};
  static const std::array<const char*, 7> kWideUnits = {
      "utf", "ucs", "unicode", "10646", "iso-10646", "csunicode", "wchar"};
  const bool is_wide = std::any_of(kWideUnits.begin(), kWideUnits.end(), [&](const char* name) {
    return label.compare(0, std::strlen(name), name) == 0;
  });
  if (label.size() > kLongestLabel || is_wide || label.compare(0, 5, "csucs") == 0) return "";
  const auto wider = kWider.find(label);
  return wider == kWider.end() ? label : wider->second;
}

bool is_letter_of_windows_1252(unsigned char byte) {
  constexpr std::string_view kBelow = "\x83\x8a\x8c\x8e\x9a\x9c\x9e\x9f";
  return (byte >= 0xC0 && byte != 0xD7 && byte != 0xF7) ||
         kBelow.find(static_cast<char>(byte)) != std::string_view::npos;
}

}  // namespace

std::optional<DecodedText> decode_charset(std::string_view bytes, const std::string& charset) {
  Converter converter(charset);
  if (!converter.is_open()) return std::nullopt;
  DecodedText decoded;
  for (size_t at = 0; at < bytes.size();) {
    if (converter.convert(bytes, at, decoded.text)) break;
    append_utf8(decoded.text, kReplacementCharacter);
    ++decoded.replaced;
    ++at;
  }
  if (!is_valid_utf8(decoded.text)) decoded.text = repair_utf8(decoded.text);
  return decoded;
}

void Utf16Decoder::replace(std::string& out) {
  append_utf8(out, kReplacementCharacter);
  ++replaced_;
}

void Utf16Decoder::add_unit(char32_t unit, std::string& out) {
  const bool is_low = unit >= 0xDC00 && unit <= 0xDFFF;
  if (high_surrogate_ != 0 && is_low) {
    append_utf8(out, 0x10000 + ((high_surrogate_ - 0xD800) << 10) + (unit - 0xDC00));
    high_surrogate_ = 0;
    return;
  }
  if (high_surrogate_ != 0) replace(out);
  high_surrogate_ = unit >= 0xD800 && unit <= 0xDBFF ? unit : 0;
  if (is_low) {
    replace(out);
  } else if (high_surrogate_ == 0) {
    append_utf8(out, unit);
  }
}

void Utf16Decoder::decode(std::string_view bytes, std::string& out) {
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (!first_byte_) {
      first_byte_ = byte;
      continue;
    }
    const char32_t high = big_endian_ ? *first_byte_ : byte;
    const char32_t low = big_endian_ ? byte : *first_byte_;
    first_byte_.reset();
    add_unit(high << 8 | low, out);
  }
}

void Utf16Decoder::finish(std::string& out) {
  if (high_surrogate_ != 0) replace(out);
  if (first_byte_) replace(out);
  high_surrogate_ = 0;
  first_byte_.reset();
}

std::string declared_html_charset(std::string_view html) {
  constexpr size_t kPrescanned = 1024;
  const std::string head = lower(html.substr(0, kPrescanned));
  if (head.compare(0, 5, "<?xml") == 0) {
    const std::string label = value_of(head.substr(0, head.find("?>")), "encoding");
    if (!label.empty()) return charset_of_label(label);
  }
  for (size_t at = head.find('<'); at != std::string::npos; at = head.find('<', at + 1)) {
    if (head.compare(at, 4, "<!--") == 0) {
      at = head.find("-->", at);
      if (at == std::string::npos) break;
    } else if (head.compare(at, 5, "<meta") == 0) {
      const std::string label = value_of(head.substr(at, head.find('>', at) - at), "charset");
      if (!label.empty()) return charset_of_label(label);
    }
  }
  return "";
}

bool looks_like_windows_1252(std::string_view bytes) {
  int64_t ascii = 0;  // that can be seen
  int64_t ascii_letters = 0;
  int64_t signs = 0;
  int64_t letters = 0;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    const bool is_text_control = c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\x1b';
    if ((byte < 0x20 && !is_text_control) || byte == 0x7F) return false;
    if (byte == 0x81 || byte == 0x8D || byte == 0x8F || byte == 0x90 || byte == 0x9D) return false;
    if (byte < 0x80) {
      if (byte > ' ') ++ascii;
      if (std::isalpha(byte) != 0) ++ascii_letters;
    } else {
      ++(is_letter_of_windows_1252(byte) ? letters : signs);
    }
  }
  return letters <= ascii_letters && signs <= ascii;
}

}  // namespace quarry
