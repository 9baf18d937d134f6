#include "data/text/precompiled_normalizer.h"

#include <utf8proc.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "data/core/error.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

constexpr size_t kUnitBytes = 4;
constexpr size_t kLongestGrapheme = 5;  // longer ones are taken character by character

// One unit of the double array.
struct Unit {
  uint32_t bits = 0;

  bool has_leaf() const { return ((bits >> 8) & 1) != 0; }
  bool is_leaf() const { return (bits >> 31) != 0; }
  uint32_t value() const { return bits & 0x7FFFFFFFU; }
  // The byte that leads here; of a leaf never equal to one.
  uint32_t label() const { return bits & 0x800000FFU; }
  uint32_t offset() const { return (bits >> 10) << ((bits & 0x200U) >> 6); }
};

class PrecompiledNormalizer : public Normalizer {
 public:
  PrecompiledNormalizer(const std::string& charsmap, const std::string& source) {
    uint32_t trie_bytes = 0;
    const bool has_size = charsmap.size() >= kUnitBytes;
    if (has_size) std::memcpy(&trie_bytes, charsmap.data(), kUnitBytes);
    QUARRY_CHECK(has_size && trie_bytes > 0 && trie_bytes % kUnitBytes == 0 &&
                     trie_bytes <= charsmap.size() - kUnitBytes,
                 ErrorCode::kCorruptData, source, ": precompiled_charsmap has ", charsmap.size(),
                 " bytes, its trie ", trie_bytes, ", wanted whole units that lie in it");
    units_.resize(trie_bytes / kUnitBytes);
    std::memcpy(units_.data(), charsmap.data() + kUnitBytes, trie_bytes);
    replacements_ = charsmap.substr(kUnitBytes + trie_bytes);
    check_replacements(source);
  }

  std::string apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = grapheme_end(text, begin);
      append(std::string_view(text).substr(begin, end - begin), out);
      begin = end;
    }
    return out;
  }

 private:
  // Each is whole characters: what follows takes the text for valid UTF-8.
  void check_replacements(const std::string& source) const {
    QUARRY_CHECK(is_valid_utf8(replacements_), ErrorCode::kCorruptData, source,
                 ": replacements of precompiled_charsmap are not valid UTF-8");
    for (const Unit& unit : units_) {
      if (!unit.is_leaf()) continue;
      const size_t begin = unit.value();
      QUARRY_CHECK(begin < replacements_.size() && !is_continuation(replacements_[begin]),
                   ErrorCode::kCorruptData, source, ": precompiled_charsmap has a rule for byte ",
                   begin, " of its ", replacements_.size(),
                   " bytes of replacements, wanted the beginning of a character");
    }
  }
  static bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

  static size_t grapheme_end(const std::string& text, size_t begin) {
    size_t at = begin;
    char32_t before = next_code_point(text, at);
    utf8proc_int32_t state = 0;
    while (at < text.size()) {
      size_t behind = at;
      const char32_t next = next_code_point(text, behind);
      if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(before),
                                           static_cast<utf8proc_int32_t>(next), &state) != 0) {
        break;
      }
      before = next;
      at = behind;
    }
    return at;
  }

  void append(std::string_view grapheme, std::string& out) const {
    if (grapheme.size() <= kLongestGrapheme) {
      if (const auto replacement = find(grapheme)) {
        out += *replacement;
        return;
      }
    }
    for (size_t at = 0; at < grapheme.size();) {
      const std::string_view character = grapheme.substr(at, utf8_length(grapheme[at]));
      out += find(character).value_or(character);
      at += character.size();
    }
  }

  // What stands for the shortest beginning of `text` that has a rule, and so for all of it.
  std::optional<std::string_view> find(std::string_view text) const {
    size_t at = units_.front().offset();
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte == 0) return std::nullopt;
      at ^= byte;
      if (at >= units_.size() || units_[at].label() != byte) return std::nullopt;
      const bool has_leaf = units_[at].has_leaf();
      at ^= units_[at].offset();
      if (!has_leaf) continue;
      if (at >= units_.size() || !units_[at].is_leaf()) return std::nullopt;
      return std::string_view(replacements_.c_str() + units_[at].value());
    }
    return std::nullopt;
  }

  std::vector<Unit> units_;
  std::string replacements_;
};

}  // namespace

std::unique_ptr<Normalizer> make_precompiled_normalizer(const std::string& charsmap,
                                                        const std::string& source) {
  return std::make_unique<PrecompiledNormalizer>(charsmap, source);
}

std::string decode_base64(const std::string& text, const std::string& source) {
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (size_t i = 0; i < text.size() && text[i] != '='; ++i) {
    const char c = text[i];
    uint32_t value = 0;
    if (c >= 'A' && c <= 'Z') {
      value = static_cast<uint32_t>(c - 'A');
    } else if (c >= 'a' && c <= 'z') {
      value = static_cast<uint32_t>(c - 'a') + 26;
    } else if (c >= '0' && c <= '9') {
      value = static_cast<uint32_t>(c - '0') + 52;
    } else if (c == '+' || c == '/') {
      value = c == '+' ? 62 : 63;
    } else {
      throw_error(ErrorCode::kCorruptData, source, ": precompiled_charsmap is not base64: byte ",
                  static_cast<int>(static_cast<unsigned char>(c)), " at ", i);
    }
    bits = (bits << 6) | value;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>((bits >> count) & 0xFFU);
  }
  return bytes;
}

}  // namespace quarry
