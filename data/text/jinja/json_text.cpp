#include <algorithm>
#include <cmath>
#include <cstdio>

#include "data/text/jinja/value.h"
#include "data/text/utf8.h"

namespace quarry::jinja {
namespace {

constexpr int kMaxDepth = 200;

void append_unicode_escape(std::string& out, char32_t c) {
  char buffer[16];
  if (c >= 0x10000) {
    c -= 0x10000;
    std::snprintf(buffer, sizeof(buffer), "\\u%04x\\u%04x",
                  static_cast<unsigned>(0xD800 + (c >> 10)),
                  static_cast<unsigned>(0xDC00 + (c & 0x3FF)));
  } else {
    std::snprintf(buffer, sizeof(buffer), "\\u%04x", static_cast<unsigned>(c));
  }
  out += buffer;
}

void append_string(std::string& out, const std::string& text, bool ensure_ascii) {
  out += '"';
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = next_code_point(text, i);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (c < 0x20 || (ensure_ascii && c > 0x7E)) {
          append_unicode_escape(out, c);
        } else {
          out.append(text, start, i - start);
        }
    }
  }
  out += '"';
}

class Writer {
 public:
  Writer(std::string& out, const JsonTextOptions& options) : out_(out), options_(options) {}

  void write(const Value& value, int depth) {
    if (depth > kMaxDepth) fault("tojson: value is nested deeper than ", kMaxDepth);
    if (value.is_string()) {
      append_string(out_, value.string(), options_.ensure_ascii);
    } else if (value.is_list()) {
      write_list(value.as_list(), depth);
    } else if (value.is_dict() && !value.as_dict().is_namespace) {
      write_dict(value.as_dict(), depth);
    } else if (value.is_none()) {
      out_ += "null";
    } else if (value.is<bool>()) {
      out_ += truthy(value) ? "true" : "false";
    } else if (value.is<double>()) {
      write_float(value.number());
    } else if (value.is_number()) {
      out_ += to_text(value);
    } else {
      fault("Object of type ", type_name(value), " is not JSON serializable");
    }
  }

 private:
  void write_float(double value) {
    if (std::isnan(value)) {
      out_ += "NaN";
    } else if (std::isinf(value)) {
      out_ += value < 0 ? "-Infinity" : "Infinity";
    } else {
      out_ += float_text(value);
    }
  }

  void new_line(int depth) {
    if (options_.indent < 0) return;
    out_ += '\n';
    out_.append(static_cast<size_t>(options_.indent) * static_cast<size_t>(depth), ' ');
  }

  void write_list(const List& list, int depth) {
    out_ += '[';
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_ += options_.item_separator;
      new_line(depth + 1);
      write(list.items[i], depth + 1);
    }
    if (!list.items.empty()) new_line(depth);
    out_ += ']';
  }

  void write_dict(const Dict& dict, int depth) {
    auto items = dict.items;
    if (options_.sort_keys) {
      std::stable_sort(items.begin(), items.end(),
                       [](const auto& a, const auto& b) { return compare(a.first, b.first) < 0; });
    }
    out_ += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += options_.item_separator;
      new_line(depth + 1);
      const Value& key = items[i].first;
      if (key.is_list() || key.is_dict()) fault("keys must be strings, not ", type_name(key));
      std::string name = key.is_string() ? key.string() : std::string();
      if (!key.is_string()) Writer(name, options_).write(key, depth + 1);
      append_string(out_, name, options_.ensure_ascii);
      out_ += options_.key_separator;
      write(items[i].second, depth + 1);
    }
    if (!items.empty()) new_line(depth);
    out_ += '}';
  }

  std::string& out_;
  const JsonTextOptions& options_;
};

}  // namespace

std::string to_json_text(const Value& value, const JsonTextOptions& options) {
  std::string out;
  Writer(out, options).write(value, 0);
  return out;
}

}  // namespace quarry::jinja
