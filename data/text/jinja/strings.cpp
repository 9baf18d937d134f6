#include <utf8proc.h>

#include "data/text/jinja/builtins.h"
#include "data/text/unicode.h"
#include "data/text/utf8.h"

namespace quarry::jinja {
namespace {

bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

void append_upper(std::string& out, char32_t c) {
  if (c == 0xDF) {  // the sharp s is the common letter whose upper case is two
    out += "SS";
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

}  // namespace

std::string upper_case(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) append_upper(out, next_code_point(text, i));
  return out;
}

std::string lower_case(const std::string& text) { return lowercase(text); }

std::string capitalize(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const bool first = i == 0;
    const char32_t c = next_code_point(text, i);
    if (first) {
      append_upper(out, c);
    } else {
      append_lowercase(out, c);
    }
  }
  return out;
}

std::string strip(const std::string& text, const std::string& characters, bool left, bool right) {
  const auto strips = [&characters](char32_t c) {
    if (characters.empty()) return is_python_space(c);
    for (size_t i = 0; i < characters.size();) {
      if (next_code_point(characters, i) == c) return true;
    }
    return false;
  };
  size_t begin = text.size();
  size_t end = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    if (strips(next_code_point(text, i))) continue;
    if (begin == text.size()) begin = start;
    end = i;
  }
  if (end == 0) return left || right ? "" : text;
  if (!left) begin = 0;
  if (!right) end = text.size();
  return text.substr(begin, end - begin);
}

std::string replace_text(const std::string& text, const std::string& from, const std::string& to,
                         int64_t count) {
  std::string out;
  size_t at = 0;
  if (from.empty()) {  // Python puts `to` before every character and at the end
    for (; count != 0; --count) {
      out += to;
      if (at >= text.size()) return out;
      const size_t start = at;
      next_code_point(text, at);
      out.append(text, start, at - start);
    }
    return out + text.substr(at);
  }
  for (; count != 0; --count) {
    const size_t hit = text.find(from, at);
    if (hit == std::string::npos) break;
    out.append(text, at, hit - at);
    out += to;
    at = hit + from.size();
  }
  return out + text.substr(at);
}

int64_t integer_argument(const Arguments& arguments, size_t index, const char* name,
                         int64_t fallback) {
  const Value* value = arguments.get(index, name);
  if (value == nullptr || value->is_none()) return fallback;
  if (!value->is_integral()) {
    fault("argument \"", name, "\" is of type '", type_name(*value), "', wanted an integer");
  }
  return value->integer();
}

bool bool_argument(const Arguments& arguments, size_t index, const char* name, bool fallback) {
  const Value* value = arguments.get(index, name);
  return value == nullptr ? fallback : truthy(*value);
}

std::string text_argument(const Arguments& arguments, size_t index, const char* name,
                          const std::string& fallback) {
  const Value* value = arguments.get(index, name);
  if (value == nullptr || value->is_none()) return fallback;
  if (!value->is_string()) {
    fault("argument \"", name, "\" is of type '", type_name(*value), "', wanted a string");
  }
  return value->string();
}

}  // namespace quarry::jinja
