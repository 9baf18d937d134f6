#include "data/text/jinja/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <iterator>

#include "data/text/utf8.h"

namespace quarry::jinja {
namespace {

constexpr int kMaxValueDepth = 200;  // that is printed or compared

std::string quote(const std::string& text) {
  const bool use_double =
      text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char mark = use_double ? '"' : '\'';
  std::string out(1, mark);
  char buffer[8];
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == mark || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      std::snprintf(buffer, sizeof(buffer), "\\x%02x", byte);
      out += buffer;
    } else {
      out += c;
    }
  }
  return out + mark;
}

void append_repr(std::string& out, const Value& value, int depth);

void append_items(std::string& out, const List& list, int depth) {
  out += list.is_tuple ? '(' : '[';
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(out, list.items[i], depth + 1);
  }
  if (list.is_tuple && list.items.size() == 1) out += ',';
  out += list.is_tuple ? ')' : ']';
}

void append_repr(std::string& out, const Value& value, int depth) {
  if (depth > kMaxValueDepth) fault("value is nested deeper than ", kMaxValueDepth);
  if (value.is_string()) {
    out += quote(value.string());
  } else if (value.is_list()) {
    append_items(out, value.as_list(), depth);
  } else if (value.is_dict()) {
    out += '{';
    const char* separator = "";
    for (const auto& [key, item] : value.as_dict().items) {
      out += separator;
      append_repr(out, key, depth + 1);
      out += ": ";
      append_repr(out, item, depth + 1);
      separator = ", ";
    }
    out += '}';
  } else if (value.is_undefined()) {
    out += "Undefined";
  } else {
    out += to_text(value);
  }
}

bool equal_at(const Value& a, const Value& b, int depth);

bool equal_items(const List& a, const List& b, int depth) {
  return a.is_tuple == b.is_tuple &&
         std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(),
                    [depth](const Value& x, const Value& y) { return equal_at(x, y, depth); });
}

bool equal_items(const Dict& a, const Dict& b, int depth) {
  if (a.is_namespace || b.is_namespace) return &a == &b;  // which may hold themselves
  return a.items.size() == b.items.size() &&
         std::all_of(a.items.begin(), a.items.end(), [&](const auto& item) {
           const Value* other = b.find(item.first);
           return other != nullptr && equal_at(item.second, *other, depth);
         });
}

bool equal_at(const Value& a, const Value& b, int depth) {
  if (depth > kMaxValueDepth) fault("value is nested deeper than ", kMaxValueDepth);
  if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
  if (a.is_number() && b.is_number()) return a.number() == b.number();
  if (a.is_string() && b.is_string()) return a.string() == b.string();
  if (a.is_list() && b.is_list()) return equal_items(a.as_list(), b.as_list(), depth + 1);
  if (a.is_dict() && b.is_dict()) return equal_items(a.as_dict(), b.as_dict(), depth + 1);
  if (a.is_callable() && b.is_callable()) return &a.callable() == &b.callable();
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

// What freed containers of this thread held and the loop below has not freed yet.
thread_local std::vector<Value>* waiting_values = nullptr;

void free_values(std::vector<Value> values) {
  if (waiting_values != nullptr) {
    std::move(values.begin(), values.end(), std::back_inserter(*waiting_values));
    return;
  }
  waiting_values = &values;
  while (!values.empty()) {
    const Value last = std::move(values.back());
    values.pop_back();
  }
  waiting_values = nullptr;
}

void free_list(List* list) {
  free_values(std::move(list->items));
  delete list;
}

void free_dict(Dict* dict) {
  std::vector<Value> values;
  for (auto& [key, value] : dict->items) {
    if (!key.is_string()) values.push_back(key);
    values.push_back(std::move(value));
  }
  free_values(std::move(values));
  delete dict;
}

}  // namespace

Value::Value(List list) : data_(std::shared_ptr<List>(new List(std::move(list)), free_list)) {}
Value::Value(Dict dict) : data_(std::shared_ptr<Dict>(new Dict(std::move(dict)), free_dict)) {}

const Value* Dict::find(const Value& key) const {
  for (const auto& [name, value] : items) {
    if (equal(name, key)) return &value;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [name, value] : items) {
    if (name.is_string() && name.string() == key) return &value;
  }
  return nullptr;
}

void Dict::set(const Value& key, Value value) {
  for (auto& [name, old] : items) {
    if (equal(name, key)) {
      old = std::move(value);
      return;
    }
  }
  items.emplace_back(key, std::move(value));
}

const Value* Arguments::get(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

bool Value::same_object(const Value& other) const {
  if (data_.index() != other.data_.index()) return false;
  if (is_list()) return &as_list() == &other.as_list();
  if (is_dict()) return &as_dict() == &other.as_dict();
  if (is_callable()) return &callable() == &other.callable();
  return equal(*this, other);
}

Value from_json(const OrderedJson& json) {
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return json.get<bool>();
    case OrderedJson::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return json.get<double>();
      return json.get<int64_t>();
    case OrderedJson::value_t::number_integer:
      return json.get<int64_t>();
    case OrderedJson::value_t::number_float:
      return json.get<double>();
    case OrderedJson::value_t::string:
      return json.get<std::string>();
    case OrderedJson::value_t::array: {
      List list;
      for (const auto& item : json) list.items.push_back(from_json(item));
      return Value(std::move(list));
    }
    case OrderedJson::value_t::object: {
      Dict dict;
      for (const auto& [key, item] : json.items()) dict.items.emplace_back(key, from_json(item));
      return Value(std::move(dict));
    }
    default:
      return None{};
  }
}

const char* type_name(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "NoneType";
  if (value.is<bool>()) return "bool";
  if (value.is<int64_t>()) return "int";
  if (value.is<double>()) return "float";
  if (value.is_string()) return "str";
  if (value.is_list()) return value.as_list().is_tuple ? "tuple" : "list";
  if (value.is_dict()) return value.as_dict().is_namespace ? "Namespace" : "dict";
  return "function";
}

bool truthy(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_number()) return value.number() != 0.0;
  if (value.is_string()) return !value.string().empty();
  if (value.is_list()) return !value.as_list().items.empty();
  if (value.is_dict()) return value.as_dict().is_namespace || !value.as_dict().items.empty();
  return true;
}

bool equal(const Value& a, const Value& b) { return equal_at(a, b, 0); }

int compare(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    return a.integer() < b.integer() ? -1 : a.integer() > b.integer();
  }
  if (a.is_number() && b.is_number()) return a.number() < b.number() ? -1 : a.number() > b.number();
  if (a.is_string() && b.is_string()) return a.string().compare(b.string());
  if (a.is_list() && b.is_list()) {
    const auto& x = a.as_list().items;
    const auto& y = b.as_list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i])) return compare(x[i], y[i]);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  if (a.is_undefined()) fault(a.undefined().reason);
  if (b.is_undefined()) fault(b.undefined().reason);
  fault("'", type_name(a), "' and '", type_name(b), "' cannot be ordered");
}

bool contains(const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) {
      fault("'in <string>' wants a string on the left, not ", type_name(item));
    }
    return container.string().find(item.string()) != std::string::npos;
  }
  if (container.is_dict()) return container.as_dict().find(item) != nullptr;
  const std::vector<Value> items = iterate(container);
  return std::any_of(items.begin(), items.end(), [&](const Value& v) { return equal(v, item); });
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string shortest(buffer, end.ptr);
  const size_t e = shortest.find('e');
  const int exponent = std::stoi(shortest.substr(e + 1));
  if (exponent < -4 || exponent >= 16) return shortest;
  const auto fixed =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed);
  std::string text(buffer, fixed.ptr);
  if (text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string to_text(const Value& value) {
  if (value.is_string()) return value.string();
  if (value.is_undefined()) return "";
  if (value.is_none()) return "None";
  if (value.is<bool>()) return value.integer() != 0 ? "True" : "False";
  if (value.is<int64_t>()) return std::to_string(value.integer());
  if (value.is<double>()) return float_text(value.number());
  if (value.is_callable()) return "<function>";
  return to_repr(value);
}

std::string to_repr(const Value& value) {
  std::string out;
  append_repr(out, value, 0);
  return out;
}

std::vector<Value> iterate(const Value& value) {
  if (value.is_list()) return value.as_list().items;
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (value.is_dict() && !value.as_dict().is_namespace) {
    for (const auto& item : value.as_dict().items) items.push_back(item.first);
    return items;
  }
  if (value.is_string()) {
    const std::string& text = value.string();
    for (size_t i = 0; i < text.size();) {
      const size_t start = i;
      next_code_point(text, i);
      items.emplace_back(text.substr(start, i - start));
    }
    return items;
  }
  fault("'", type_name(value), "' object is not iterable");
}

int64_t length(const Value& value) {
  if (value.is_string()) return count_code_points(value.string());
  if (value.is_list()) return static_cast<int64_t>(value.as_list().items.size());
  if (value.is_dict()) return static_cast<int64_t>(value.as_dict().items.size());
  if (value.is_undefined()) return 0;
  fault("object of type '", type_name(value), "' has no len()");
}

}  // namespace quarry::jinja
