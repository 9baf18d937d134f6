#include "data/text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <string_view>

#include "data/core/error.h"
#include "data/text/utf8.h"

namespace quarry::jinja {
namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

// \r\n and \r become \n; one newline at the end goes.
std::string normalize_newlines(const std::string& source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(const std::string& source) : source_(normalize_newlines(source)) {}

  std::vector<Token> run() {
    while (position_ < source_.size()) {
      const size_t tag = find_tag();
      const char kind = tag < source_.size() ? source_[tag + 1] : '\0';
      add_text(tag, kind);
      if (kind == '\0') break;
      const int line = line_;
      advance(tag + 2);
      if (position_ < source_.size() && (source_[position_] == '-' || source_[position_] == '+')) {
        advance(position_ + 1);
      }
      if (kind == '#') {
        skip_comment(line);
      } else if (kind == '%' && skip_raw(line)) {
        continue;
      } else {
        read_tag(kind == '%', line);
      }
    }
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  size_t find_tag() const {
    for (size_t at = position_; (at = source_.find('{', at)) != std::string::npos; ++at) {
      if (at + 1 < source_.size()) {
        const char c = source_[at + 1];
        if (c == '%' || c == '{' || c == '#') return at;
      }
    }
    return source_.size();
  }

  void advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(position_),
                                         source_.begin() + static_cast<ptrdiff_t>(to), '\n'));
    position_ = to;
  }

  void add(TokenKind kind, std::string text) {
    Token token;
    token.kind = kind;
    token.text = std::move(text);
    token.line = line_;
    tokens_.push_back(std::move(token));
  }

  // The text up to a tag of `kind` ('%', '{', '#', or none at the end), stripped by its rules.
  void add_text(size_t end, char kind) {
    std::string text = source_.substr(position_, end - position_);
    const char sign = end + 2 < source_.size() ? source_[end + 2] : '\0';
    if (kind != '\0' && sign == '-') {
      while (!text.empty() && is_space(text.back())) text.pop_back();
    } else if ((kind == '%' || kind == '#') && sign != '+') {
      const size_t line_start = text.rfind('\n') + 1;  // 0 when there is no newline
      const bool blank =
          std::all_of(text.begin() + static_cast<ptrdiff_t>(line_start), text.end(), is_space);
      if (blank && (line_start > 0 || at_line_start_)) text.resize(line_start);
    }
    if (!text.empty()) add(TokenKind::kText, std::move(text));
    advance(end);
  }

  // Behind "-%}" all white space goes, behind "%}" one newline, behind "+%}" nothing.
  void close_tag(char sign, bool trims_newline) {
    at_line_start_ = false;
    size_t end = position_;
    if (sign == '-') {
      while (end < source_.size() && is_space(source_[end])) ++end;
    } else if (sign != '+' && trims_newline && end < source_.size() && source_[end] == '\n') {
      ++end;
    }
    if (end > position_) at_line_start_ = source_[end - 1] == '\n';
    advance(end);
  }

  void skip_comment(int line) {
    const size_t end = source_.find("#}", position_);
    if (end == std::string::npos) throw_at_line(line, "missing end of comment tag \"#}\"");
    const char sign = end > position_ ? source_[end - 1] : '\0';
    advance(end + 2);
    close_tag(sign, true);
  }

  // At `at`: white space, an optional sign, "%}". Returns the position behind it, or npos.
  size_t match_block_end(size_t at, char& sign) const {
    while (at < source_.size() && is_space(source_[at])) ++at;
    sign = '\0';
    if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) sign = source_[at++];
    return source_.compare(at, 2, "%}") == 0 ? at + 2 : std::string::npos;
  }

  // "raw %}" ... "{% endraw %}" is text as it stands.
  bool skip_raw(int line) {
    size_t at = position_;
    while (at < source_.size() && is_space(source_[at])) ++at;
    if (source_.compare(at, 3, "raw") != 0) return false;
    char sign = '\0';
    const size_t begin = match_block_end(at + 3, sign);
    if (begin == std::string::npos) return false;
    advance(begin);
    close_tag(sign, true);
    for (size_t open = position_; (open = source_.find("{%", open)) != std::string::npos; ++open) {
      size_t name = open + 2;
      if (name < source_.size() && (source_[name] == '-' || source_[name] == '+')) ++name;
      while (name < source_.size() && is_space(source_[name])) ++name;
      if (source_.compare(name, 6, "endraw") != 0) continue;
      const size_t behind = match_block_end(name + 6, sign);
      if (behind == std::string::npos) continue;
      add_text(open, '%');
      advance(behind);
      close_tag(sign, true);
      return true;
    }
    throw_at_line(line, "missing end of raw block");
  }

  void read_tag(bool is_block, int line) {
    add(is_block ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, "");
    const std::string close = is_block ? "%}" : "}}";
    int depth = 0;  // of brackets: "}}" may close two dictionaries
    while (true) {
      size_t at = position_;
      while (at < source_.size() && is_space(source_[at])) ++at;
      advance(at);
      if (position_ >= source_.size()) {
        throw_at_line(line, "tag is not closed: \"" + close + "\" is missing");
      }
      const char c = source_[position_];
      const size_t sign_length = c == '-' || (c == '+' && is_block) ? 1 : 0;
      if (depth == 0 && source_.compare(position_ + sign_length, 2, close) == 0) {
        advance(position_ + sign_length + 2);
        add(is_block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
        close_tag(sign_length > 0 ? c : '\0', is_block);
        return;
      }
      if (c == '(' || c == '[' || c == '{') ++depth;
      if (c == ')' || c == ']' || c == '}') --depth;
      read_token(c);
    }
  }

  void read_token(char c) {
    if (is_name_start(c)) {
      size_t end = position_;
      while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end]))) ++end;
      add(TokenKind::kName, source_.substr(position_, end - position_));
      advance(end);
    } else if (is_digit(c)) {
      read_number();
    } else if (c == '"' || c == '\'') {
      read_string(c);
    } else {
      read_operator(c);
    }
  }

  void read_number() {
    std::string digits;
    bool is_float = false;
    size_t at = position_;
    const auto take_digits = [&] {
      while (at < source_.size() && (is_digit(source_[at]) || source_[at] == '_')) {
        if (source_[at] != '_') digits += source_[at];
        ++at;
      }
    };
    take_digits();
    if (at + 1 < source_.size() && source_[at] == '.' && is_digit(source_[at + 1])) {
      is_float = true;
      digits += source_[at++];
      take_digits();
    }
    size_t exponent = at;
    if (exponent < source_.size() && (source_[exponent] == 'e' || source_[exponent] == 'E')) {
      ++exponent;
      const bool has_sign =
          exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-');
      if (has_sign) ++exponent;
      if (exponent < source_.size() && is_digit(source_[exponent])) {
        is_float = true;
        digits += source_.substr(at, exponent - at);
        at = exponent;
        take_digits();
      }
    }
    if (!is_float && digits.size() > 18)
      throw_at_line(line_, "integer " + digits + " is too large");
    add(is_float ? TokenKind::kFloat : TokenKind::kInteger, digits);
    tokens_.back().number = std::strtod(digits.c_str(), nullptr);
    if (!is_float) tokens_.back().integer = std::strtoll(digits.c_str(), nullptr, 10);
    advance(at);
  }

  void read_string(char mark) {
    std::string text;
    size_t at = position_ + 1;
    while (at < source_.size() && source_[at] != mark) {
      if (source_[at] == '\\' && at + 1 < source_.size()) {
        at = read_escape(at + 1, text);
      } else {
        text += source_[at++];
      }
    }
    if (at >= source_.size()) throw_at_line(line_, "string is not closed");
    add(TokenKind::kString, std::move(text));
    advance(at + 1);
  }

  // Python's escapes; `at` is behind the backslash. Returns the position behind the escape.
  size_t read_escape(size_t at, std::string& text) const {
    static constexpr std::string_view kNames = "abfnrtv0\\'\"";
    static constexpr std::string_view kBytes("\a\b\f\n\r\t\v\0\\'\"", 11);
    const char c = source_[at];
    const size_t hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (hex > 0 && at + hex < source_.size() &&
        std::all_of(source_.begin() + static_cast<ptrdiff_t>(at + 1),
                    source_.begin() + static_cast<ptrdiff_t>(at + 1 + hex),
                    [](char d) { return std::isxdigit(static_cast<unsigned char>(d)) != 0; })) {
      const auto value = std::strtoul(source_.substr(at + 1, hex).c_str(), nullptr, 16);
      const bool scalar = value < 0x110000 && (value < 0xD800 || value > 0xDFFF);
      append_utf8(text, scalar ? static_cast<char32_t>(value) : kReplacementCharacter);
      return at + 1 + hex;
    }
    if (c == '\n') return at + 1;
    const size_t known = kNames.find(c);
    if (known != std::string_view::npos) {
      text += kBytes[known];
    } else {
      text += '\\';
      text += c;
    }
    return at + 1;
  }

  void read_operator(char c) {
    static constexpr std::array<std::string_view, 6> kPairs = {"==", "!=", "<=", ">=", "//", "**"};
    const std::string pair = source_.substr(position_, 2);
    if (std::find(kPairs.begin(), kPairs.end(), pair) != kPairs.end()) {
      add(TokenKind::kOperator, pair);
      advance(position_ + 2);
      return;
    }
    if (std::string_view("+-*/%~<>=|.,:()[]{}").find(c) == std::string_view::npos) {
      throw_at_line(line_, std::string("unexpected character '") + c + "'");
    }
    add(TokenKind::kOperator, std::string(1, c));
    advance(position_ + 1);
  }

  std::string source_;
  size_t position_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;  // nothing but stripped newlines stands before position_
  std::vector<Token> tokens_;
};

}  // namespace

void throw_at_line(int line, const std::string& reason) {
  throw_error(ErrorCode::kInvalidArgument, "chat template, line ", line, ": ", reason);
}

std::vector<Token> tokenize(const std::string& source) { return Lexer(source).run(); }

}  // namespace quarry::jinja
