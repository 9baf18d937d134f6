#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <map>

#include "data/text/jinja/builtins.h"
#include "data/text/unicode.h"
#include "data/text/utf8.h"

namespace quarry::jinja {
namespace {

using Filter = Value (*)(const Value&, const Arguments&);

// The text of a filter that works on strings; numbers and the like are printed first.
std::string text_of(const Value& value) { return to_text(value); }

// "a.b.0" looked up from item to item.
Value deep_attribute(const Value& item, const Value& path) {
  if (path.is_integral()) return get_item(item, path);
  Value value = item;
  const std::string text = to_text(path);
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('.', begin), text.size());
    const std::string name = text.substr(begin, end - begin);
    const bool numeric = !name.empty() && name.size() < 10 &&
                         name.find_first_not_of("0123456789") == std::string::npos;
    value = get_item(value, numeric ? Value(static_cast<int64_t>(std::stol(name))) : Value(name));
    begin = end + 1;
  }
  return value;
}

Value filter_default(const Value& value, const Arguments& arguments) {
  const bool falsy_too = bool_argument(arguments, 1, "boolean", false);
  if (!value.is_undefined() && !(falsy_too && !truthy(value))) return value;
  const Value* fallback = arguments.get(0, "default_value");
  return fallback != nullptr ? *fallback : Value("");
}

Value filter_join(const Value& value, const Arguments& arguments) {
  const Value* separator = arguments.get(0, "d");
  const Value* attribute = arguments.get(1, "attribute");
  const std::string between = separator != nullptr ? to_text(*separator) : "";
  std::string out;
  bool first = true;
  for (const Value& item : iterate(value)) {
    if (!first) out += between;
    first = false;
    out += to_text(attribute != nullptr ? deep_attribute(item, *attribute) : item);
  }
  return out;
}

Value filter_tojson(const Value& value, const Arguments& arguments) {
  JsonTextOptions options;
  options.ensure_ascii = bool_argument(arguments, 0, "ensure_ascii", false);
  options.indent = integer_argument(arguments, 1, "indent", -1);
  options.sort_keys = bool_argument(arguments, 3, "sort_keys", false);
  if (options.indent > 64) fault("tojson: indent is ", options.indent, ", the most is 64");
  if (options.indent >= 0) options.item_separator = ",";
  const Value* separators = arguments.get(2, "separators");
  if (separators != nullptr && !separators->is_none()) {
    const std::vector<Value> pair = iterate(*separators);
    if (pair.size() != 2) fault("tojson: separators are ", pair.size(), " values, wanted 2");
    options.item_separator = to_text(pair[0]);
    options.key_separator = to_text(pair[1]);
  }
  return to_json_text(value, options);
}

template <bool kFirst>
Value filter_end(const Value& value, const Arguments&) {
  const std::vector<Value> items = iterate(value);
  if (items.empty()) return Undefined{"No first item, sequence was empty."};
  return kFirst ? items.front() : items.back();
}

Value filter_items(const Value& value, const Arguments&) {
  if (value.is_undefined()) return Value::list({});
  if (!value.is_dict()) fault("Can only get item pairs from a mapping.");
  return find_method(value, "items").callable()(Arguments());
}

// The arguments of map, select and the like behind the name at `skip`.
Arguments arguments_behind(const Arguments& arguments, size_t skip) {
  Arguments rest;
  for (size_t i = skip; i < arguments.positional.size(); ++i) {
    rest.positional.push_back(arguments.positional[i]);
  }
  rest.named = arguments.named;
  return rest;
}

Value filter_map(const Value& value, const Arguments& arguments) {
  const Value* attribute = arguments.positional.empty() ? arguments.get(0, "attribute") : nullptr;
  if (attribute == nullptr && arguments.positional.empty()) fault("map requires a filter argument");
  const Value* fallback = arguments.get(99, "default");
  List out;
  for (const Value& item : iterate(value)) {
    if (attribute == nullptr) {
      out.items.push_back(
          apply_filter(to_text(arguments.positional[0]), item, arguments_behind(arguments, 1)));
    } else {
      const Value found = deep_attribute(item, *attribute);
      out.items.push_back(found.is_undefined() && fallback != nullptr ? *fallback : found);
    }
  }
  return Value(std::move(out));
}

// select, reject, selectattr, rejectattr
template <bool kKeep, bool kAttribute>
Value filter_select(const Value& value, const Arguments& arguments) {
  const size_t skip = kAttribute ? 1 : 0;
  if (kAttribute && arguments.positional.empty()) fault("missing parameter for attribute name");
  const bool has_test = arguments.positional.size() > skip;
  const Arguments rest = arguments_behind(arguments, skip + 1);
  List out;
  for (const Value& item : iterate(value)) {
    const Value subject = kAttribute ? deep_attribute(item, arguments.positional[0]) : item;
    const bool passes =
        has_test ? apply_test(to_text(arguments.positional[skip]), subject, rest) : truthy(subject);
    if (passes == kKeep) out.items.push_back(item);
  }
  return Value(std::move(out));
}

Value filter_replace(const Value& value, const Arguments& arguments) {
  const Value* from = arguments.get(0, "old");
  const Value* to = arguments.get(1, "new");
  if (from == nullptr || to == nullptr) fault("replace wants two arguments");
  return replace_text(text_of(value), to_text(*from), to_text(*to),
                      integer_argument(arguments, 2, "count", -1));
}

Value filter_int(const Value& value, const Arguments& arguments) {
  const int64_t fallback = integer_argument(arguments, 0, "default", 0);
  if (value.is_integral()) return value.integer();
  double number = 0.0;
  if (value.is<double>()) {
    number = value.number();
  } else if (value.is_string()) {
    const std::string text = strip(value.string(), "", true, true);
    char* end = nullptr;
    const auto base = static_cast<int>(integer_argument(arguments, 1, "base", 10));
    errno = 0;
    const long long whole = std::strtoll(text.c_str(), &end, base);
    if (!text.empty() && *end == '\0' && errno == 0) return static_cast<int64_t>(whole);
    number = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0') return fallback;
  } else {
    return fallback;
  }
  return std::isfinite(number) && std::fabs(number) < 9.2e18 ? static_cast<int64_t>(number)
                                                             : fallback;
}

Value filter_float(const Value& value, const Arguments& arguments) {
  if (value.is_number()) return value.number();
  const Value* fallback = arguments.get(0, "default");
  const std::string text = value.is_string() ? strip(value.string(), "", true, true) : "";
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  if (!text.empty() && *end == '\0') return number;
  return fallback != nullptr ? *fallback : Value(0.0);
}

// Jinja's own rule: a letter behind white space, - ( { [ or < is upper case, the others lower.
Value filter_title(const Value& value, const Arguments&) {
  const std::string text = text_of(value);
  std::string out;
  bool begins = true;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = next_code_point(text, i);
    const std::string character = text.substr(start, i - start);
    out += begins ? upper_case(character) : lower_case(character);
    begins = is_white_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  }
  return out;
}

// Strings are ordered without case unless asked otherwise.
Value sort_key(const Value& value, bool case_sensitive) {
  return value.is_string() && !case_sensitive ? Value(lower_case(value.string())) : value;
}

Value filter_dictsort(const Value& value, const Arguments& arguments) {
  if (!value.is_dict()) fault("dictsort wants a dictionary, not ", type_name(value));
  const bool case_sensitive = bool_argument(arguments, 0, "case_sensitive", false);
  const bool by_value = text_argument(arguments, 1, "by", "key") == "value";
  const bool reverse = bool_argument(arguments, 2, "reverse", false);
  auto items = value.as_dict().items;
  std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) {
    const Value x = sort_key(by_value ? a.second : a.first, case_sensitive);
    const Value y = sort_key(by_value ? b.second : b.first, case_sensitive);
    return reverse ? compare(y, x) < 0 : compare(x, y) < 0;
  });
  List out;
  for (auto& [key, item] : items) out.items.push_back(Value::tuple({key, item}));
  return Value(std::move(out));
}

Value filter_sort(const Value& value, const Arguments& arguments) {
  const bool reverse = bool_argument(arguments, 0, "reverse", false);
  const bool case_sensitive = bool_argument(arguments, 1, "case_sensitive", false);
  const Value* attribute = arguments.get(2, "attribute");
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : iterate(value)) {
    const bool whole = attribute == nullptr || attribute->is_none();
    keyed.emplace_back(sort_key(whole ? item : deep_attribute(item, *attribute), case_sensitive),
                       item);
  }
  std::stable_sort(keyed.begin(), keyed.end(), [reverse](const auto& a, const auto& b) {
    return reverse ? compare(b.first, a.first) < 0 : compare(a.first, b.first) < 0;
  });
  List out;
  for (auto& item : keyed) out.items.push_back(std::move(item.second));
  return Value(std::move(out));
}

Value filter_unique(const Value& value, const Arguments& arguments) {
  const bool case_sensitive = bool_argument(arguments, 0, "case_sensitive", false);
  const Value* attribute = arguments.get(1, "attribute");
  std::vector<Value> seen;
  List out;
  for (const Value& item : iterate(value)) {
    const Value key =
        sort_key(attribute != nullptr ? deep_attribute(item, *attribute) : item, case_sensitive);
    const bool known = std::any_of(seen.begin(), seen.end(),
                                   [&key](const Value& other) { return equal(other, key); });
    if (known) continue;
    seen.push_back(key);
    out.items.push_back(item);
  }
  return Value(std::move(out));
}

template <int kSign>
Value filter_extreme(const Value& value, const Arguments& arguments) {
  const bool case_sensitive = bool_argument(arguments, 0, "case_sensitive", false);
  const std::vector<Value> items = iterate(value);
  if (items.empty()) return Undefined{"No aggregated item, sequence was empty."};
  const Value* best = &items.front();
  for (const Value& item : items) {
    if (kSign * compare(sort_key(item, case_sensitive), sort_key(*best, case_sensitive)) > 0) {
      best = &item;
    }
  }
  return *best;
}

Value filter_sum(const Value& value, const Arguments& arguments) {
  const Value* attribute = arguments.get(0, "attribute");
  const Value* start = arguments.get(1, "start");
  Value sum = start != nullptr ? *start : Value(int64_t{0});
  for (const Value& item : iterate(value)) {
    const bool whole = attribute == nullptr || attribute->is_none();
    sum = apply_binary("+", sum, whole ? item : deep_attribute(item, *attribute));
  }
  return sum;
}

Value filter_reverse(const Value& value, const Arguments&) {
  std::vector<Value> items = iterate(value);
  std::reverse(items.begin(), items.end());
  if (!value.is_string()) return Value::list(std::move(items));
  std::string out;
  for (const Value& item : items) out += item.string();
  return out;
}

Value filter_indent(const Value& value, const Arguments& arguments) {
  const Value* width = arguments.get(0, "width");
  const std::string space =
      width != nullptr && width->is_string()
          ? width->string()
          : std::string(static_cast<size_t>(std::clamp<int64_t>(
                            integer_argument(arguments, 0, "width", 4), 0, 1000)),
                        ' ');
  const bool first = bool_argument(arguments, 1, "first", false);
  const bool blank = bool_argument(arguments, 2, "blank", false);
  const std::string text = text_of(value) + "\n";
  std::string out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    const std::string line = text.substr(begin, end - begin);
    const bool is_first = begin == 0;
    if (!is_first) out += '\n';
    if ((is_first ? first : (blank || !line.empty()))) out += space;
    out += line;
    begin = end + 1;
  }
  return out;
}

Value filter_abs(const Value& value, const Arguments&) {
  if (value.is<double>()) return std::fabs(value.number());
  if (!value.is_integral()) fault("bad operand type for abs(): '", type_name(value), "'");
  return value.integer() < 0 ? negate(value) : Value(value.integer());
}

Value filter_round(const Value& value, const Arguments& arguments) {
  if (!value.is_number()) fault("round wants a number, not ", type_name(value));
  const int64_t precision = integer_argument(arguments, 0, "precision", 0);
  const std::string method = text_argument(arguments, 1, "method", "common");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = value.number() * scale;
  if (method == "ceil") return std::ceil(scaled) / scale;
  if (method == "floor") return std::floor(scaled) / scale;
  if (method != "common") fault("round method is '", method, "', wanted common, ceil or floor");
  return std::nearbyint(scaled) / scale;  // Python rounds halves to even
}

Value filter_attr(const Value& value, const Arguments& arguments) {
  return get_attribute(value, text_argument(arguments, 0, "name", ""));
}

Value filter_escape(const Value& value, const Arguments&) {
  std::string out;
  for (const char c : text_of(value)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

const std::map<std::string, Filter>& filters() {
  static const std::map<std::string, Filter> table = {
      {"trim",
       [](const Value& v, const Arguments& a) -> Value {
         return strip(text_of(v), text_argument(a, 0, "chars", ""), true, true);
       }},
      {"length", [](const Value& v, const Arguments&) -> Value { return length(v); }},
      {"count", [](const Value& v, const Arguments&) -> Value { return length(v); }},
      {"upper", [](const Value& v, const Arguments&) -> Value { return upper_case(text_of(v)); }},
      {"lower", [](const Value& v, const Arguments&) -> Value { return lower_case(text_of(v)); }},
      {"capitalize",
       [](const Value& v, const Arguments&) -> Value { return capitalize(text_of(v)); }},
      {"string", [](const Value& v, const Arguments&) -> Value { return text_of(v); }},
      {"safe", [](const Value& v, const Arguments&) -> Value { return v; }},
      {"list", [](const Value& v, const Arguments&) -> Value { return Value::list(iterate(v)); }},
      {"title", filter_title},
      {"default", filter_default},
      {"d", filter_default},
      {"join", filter_join},
      {"tojson", filter_tojson},
      {"first", filter_end<true>},
      {"last", filter_end<false>},
      {"items", filter_items},
      {"map", filter_map},
      {"select", filter_select<true, false>},
      {"reject", filter_select<false, false>},
      {"selectattr", filter_select<true, true>},
      {"rejectattr", filter_select<false, true>},
      {"replace", filter_replace},
      {"int", filter_int},
      {"float", filter_float},
      {"dictsort", filter_dictsort},
      {"sort", filter_sort},
      {"unique", filter_unique},
      {"min", filter_extreme<-1>},
      {"max", filter_extreme<1>},
      {"sum", filter_sum},
      {"reverse", filter_reverse},
      {"indent", filter_indent},
      {"abs", filter_abs},
      {"round", filter_round},
      {"attr", filter_attr},
      {"escape", filter_escape},
      {"e", filter_escape},
  };
  return table;
}

}  // namespace

bool is_filter(const std::string& name) { return filters().count(name) > 0; }

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments) {
  const auto found = filters().find(name);
  if (found == filters().end()) fault("no filter named '", name, "'");
  return found->second(value, arguments);
}

}  // namespace quarry::jinja
