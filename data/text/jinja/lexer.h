#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quarry::jinja {

enum class TokenKind {
  kText,           // literal output
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;  // of strings and text: the contents
  int64_t integer = 0;
  double number = 0.0;
  int line = 1;
};

// Cuts a template as Jinja2 does with trim_blocks and lstrip_blocks on: a newline behind a block
// tag and white space before one on its line vanish; "-" strips all white space, "+" none; comments
// and raw blocks are resolved. Throws quarry::Error kInvalidArgument with the line.
std::vector<Token> tokenize(const std::string& source);

// "chat template, line <line>: <reason>"
[[noreturn]] void throw_at_line(int line, const std::string& reason);

}  // namespace quarry::jinja
