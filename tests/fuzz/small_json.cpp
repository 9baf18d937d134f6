#include "tests/fuzz/small_json.h"

#include "data/text/utf8.h"

namespace quarry::fuzz {
namespace {

constexpr int kMaxDepth = 256;

struct Malformed {};

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  SmallJson read_all() {
    SmallJson json = value(0);
    space();
    if (at_ != text_.size()) throw Malformed();
    return json;
  }

 private:
  char peek() const {
    if (at_ >= text_.size()) throw Malformed();
    return text_[at_];
  }
  void space() {
    while (at_ < text_.size() &&
           std::string_view(" \t\r\n").find(text_[at_]) != std::string::npos) {
      ++at_;
    }
  }
  bool take(char c) {
    space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void want(char c) {
    if (!take(c)) throw Malformed();
  }

  SmallJson value(int depth) {
    if (depth > kMaxDepth) throw Malformed();
    SmallJson json;
    space();
    const char first = peek();
    if (first == '{') {
      object(depth, json);
    } else if (first == '[') {
      array(depth, json);
    } else if (first == '"') {
      json.kind = SmallJson::Kind::kString;
      json.text = string();
    } else if (first == '-' || (first >= '0' && first <= '9')) {
      json.kind = SmallJson::Kind::kNumber;
      while (at_ < text_.size() &&
             std::string_view("+-.0123456789eE").find(text_[at_]) != std::string::npos) {
        json.number += text_[at_++];
      }
    } else {
      word(json);
    }
    return json;
  }

  void object(int depth, SmallJson& json) {
    json.kind = SmallJson::Kind::kObject;
    want('{');
    if (take('}')) return;
    do {
      space();
      std::string key = string();
      want(':');
      json.members.emplace_back(std::move(key), value(depth + 1));
    } while (take(','));
    want('}');
  }
  void array(int depth, SmallJson& json) {
    json.kind = SmallJson::Kind::kArray;
    want('[');
    if (take(']')) return;
    do {
      json.items.push_back(value(depth + 1));
    } while (take(','));
    want(']');
  }
  void word(SmallJson& json) {
    for (const std::string_view known : {"null", "true", "false"}) {
      if (text_.substr(at_, known.size()) != known) continue;
      at_ += known.size();
      json.kind = known == "null" ? SmallJson::Kind::kNull : SmallJson::Kind::kBool;
      return;
    }
    throw Malformed();
  }

  char32_t hex4() {
    char32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const size_t digit = std::string_view("0123456789abcdefABCDEF").find(peek());
      if (digit == std::string_view::npos) throw Malformed();
      code = code * 16 + static_cast<char32_t>(digit < 16 ? digit : digit - 6);
      ++at_;
    }
    return code;
  }
  std::string string() {
    std::string out;
    if (peek() != '"') throw Malformed();
    for (++at_; peek() != '"';) {
      if (text_[at_] != '\\') {
        out += text_[at_++];
        continue;
      }
      ++at_;
      const char kind = peek();
      ++at_;
      if (kind != 'u') {
        const size_t known = std::string_view("\"\\/bfnrt").find(kind);
        if (known == std::string_view::npos) throw Malformed();
        out += "\"\\/\b\f\n\r\t"[known];
        continue;
      }
      char32_t code = hex4();
      if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
        at_ += 2;
        code = 0x10000 + ((code - 0xD800) << 10) + (hex4() - 0xDC00);
      }
      append_utf8(out, code);
    }
    ++at_;
    return out;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

std::optional<SmallJson> parse_small_json(std::string_view text) {
  try {
    return Reader(text).read_all();
  } catch (const Malformed&) {
    return std::nullopt;
  }
}

}  // namespace quarry::fuzz
