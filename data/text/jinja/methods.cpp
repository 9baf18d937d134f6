#include <algorithm>
#include <cctype>
#include <map>

#include "data/text/jinja/builtins.h"
#include "data/text/unicode.h"
#include "data/text/utf8.h"

namespace quarry::jinja {
namespace {

using StringMethod = Value (*)(const std::string&, const Arguments&);
using ListMethod = Value (*)(const List&, const Arguments&);
using DictMethod = Value (*)(const Dict&, const Arguments&);

const Value& required(const Arguments& arguments, size_t index, const char* method) {
  const Value* value = arguments.get(index, "");
  if (value == nullptr) fault(method, "() wants at least ", index + 1, " arguments");
  return *value;
}

std::string required_text(const Arguments& arguments, size_t index, const char* method) {
  const Value& value = required(arguments, index, method);
  if (!value.is_string()) fault(method, "() wants a string, not ", type_name(value));
  return value.string();
}

template <bool kLeft, bool kRight>
Value strip_method(const std::string& text, const Arguments& arguments) {
  const std::string characters = text_argument(arguments, 0, "chars", "");
  const bool nothing = arguments.get(0, "chars") != nullptr && characters.empty() &&
                       !arguments.get(0, "chars")->is_none();
  return nothing ? text : strip(text, characters, kLeft, kRight);
}

// Python's split() without a separator: runs of white space part words.
std::vector<Value> split_words(const std::string& text, int64_t limit) {
  std::vector<Value> parts;
  std::string rest = strip(text, "", true, false);
  while (!rest.empty()) {
    size_t end = 0;
    size_t next = 0;
    while (end < rest.size()) {
      next = end;
      const char32_t c = next_code_point(rest, next);
      if (is_white_space(c) || (c >= 0x1C && c <= 0x1F)) break;
      end = next;
    }
    if (limit >= 0 && static_cast<int64_t>(parts.size()) >= limit) end = rest.size();
    const bool last = end >= rest.size();
    parts.emplace_back(last && limit >= 0 ? strip(rest, "", false, true) : rest.substr(0, end));
    rest = strip(rest.substr(end), "", true, false);
  }
  return parts;
}

template <bool kFromRight>
Value split_method(const std::string& text, const Arguments& arguments) {
  const int64_t limit = integer_argument(arguments, 1, "maxsplit", -1);
  const Value* given = arguments.get(0, "sep");
  if (given == nullptr || given->is_none()) {
    if (kFromRight && limit >= 0) fault("rsplit() with maxsplit wants a separator");
    return Value::list(split_words(text, limit));
  }
  const std::string separator = text_argument(arguments, 0, "sep", "");
  if (separator.empty()) fault("empty separator");
  std::vector<size_t> hits;
  if (kFromRight) {
    size_t end = text.size();
    while (limit < 0 || static_cast<int64_t>(hits.size()) < limit) {
      if (end < separator.size()) break;
      const size_t hit = text.rfind(separator, end - separator.size());
      if (hit == std::string::npos) break;
      hits.push_back(hit);
      end = hit;
    }
    std::reverse(hits.begin(), hits.end());
  } else {
    for (size_t at = 0; limit < 0 || static_cast<int64_t>(hits.size()) < limit;) {
      const size_t hit = text.find(separator, at);
      if (hit == std::string::npos) break;
      hits.push_back(hit);
      at = hit + separator.size();
    }
  }
  std::vector<Value> parts;
  size_t begin = 0;
  for (const size_t hit : hits) {
    parts.emplace_back(text.substr(begin, hit - begin));
    begin = hit + separator.size();
  }
  parts.emplace_back(text.substr(begin));
  return Value::list(std::move(parts));
}

Value split_lines(const std::string& text, const Arguments& arguments) {
  const bool keep_ends = bool_argument(arguments, 0, "keepends", false);
  std::vector<Value> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find_first_of("\r\n", begin), text.size());
    size_t next = std::min(end + 1, text.size());
    if (next < text.size() && text[end] == '\r' && text[next] == '\n') ++next;
    lines.emplace_back(text.substr(begin, (keep_ends ? next : end) - begin));
    begin = next;
  }
  return Value::list(std::move(lines));
}

template <bool kAtStart>
Value affix_method(const std::string& text, const Arguments& arguments) {
  const Value& affix = required(arguments, 0, kAtStart ? "startswith" : "endswith");
  const auto matches = [&text](const Value& candidate) {
    if (!candidate.is_string()) {
      fault(kAtStart ? "startswith" : "endswith", "() wants a string or a tuple of strings, not ",
            type_name(candidate));
    }
    const std::string& part = candidate.string();
    return part.size() <= text.size() &&
           text.compare(kAtStart ? 0 : text.size() - part.size(), part.size(), part) == 0;
  };
  if (affix.is_list() && affix.as_list().is_tuple) {
    const auto& options = affix.as_list().items;
    return std::any_of(options.begin(), options.end(), matches);
  }
  return matches(affix);
}

Value title_method(const std::string& text, const Arguments&) {
  std::string out;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    next_code_point(text, i);
    const std::string character = text.substr(start, i - start);
    const bool cased = upper_case(character) != lower_case(character);
    out += !cased ? character : in_word ? lower_case(character) : upper_case(character);
    in_word = cased;
  }
  return out;
}

template <bool kFromRight>
Value find_in_string(const std::string& text, const Arguments& arguments) {
  const std::string part = required_text(arguments, 0, "find");
  const size_t hit = kFromRight ? text.rfind(part) : text.find(part);
  if (hit == std::string::npos) return int64_t{-1};
  return count_code_points(std::string_view(text).substr(0, hit));
}

Value count_in_string(const std::string& text, const Arguments& arguments) {
  const std::string part = required_text(arguments, 0, "count");
  if (part.empty()) return count_code_points(text) + 1;
  int64_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++count;
  return count;
}

Value join_method(const std::string& separator, const Arguments& arguments) {
  std::string out;
  const char* between = "";
  for (const Value& item : iterate(required(arguments, 0, "join"))) {
    if (!item.is_string()) fault("join() wants strings, found ", type_name(item));
    out += between + item.string();
    between = separator.c_str();
  }
  return out;
}

template <bool kAtStart>
Value remove_affix(const std::string& text, const Arguments& arguments) {
  const std::string part = required_text(arguments, 0, kAtStart ? "removeprefix" : "removesuffix");
  if (!truthy(affix_method<kAtStart>(text, arguments))) return text;
  return kAtStart ? text.substr(part.size()) : text.substr(0, text.size() - part.size());
}

template <int (*kPredicate)(int)>
Value all_characters(const std::string& text, const Arguments&) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    // Beyond ASCII only letters are likely in templates: taken for letters.
    return byte < 0x80 ? kPredicate(byte) != 0 : kPredicate('a') != 0;
  });
}

// "{}", "{0}", "{name}" and doubled braces.
Value format_method(const std::string& text, const Arguments& arguments) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c != '{' && c != '}') {
      out += c;
    } else if (i + 1 < text.size() && text[i + 1] == c) {
      out += c;
      ++i;
    } else {
      const size_t end = text.find('}', i);
      if (c == '}' || end == std::string::npos) fault("single '", c, "' in format string");
      const std::string field = text.substr(i + 1, end - i - 1);
      const bool numeric = field.empty() || (field.size() < 6 && std::isdigit(field[0]) != 0);
      if (field.find_first_of(":!.[") != std::string::npos) {
        fault("format field \"{", field, "}\" is not supported; known: {}, {0}, {name}");
      }
      const size_t index = !numeric        ? arguments.positional.size()
                           : field.empty() ? next++
                                           : static_cast<size_t>(std::stoul(field));
      const Value* value = arguments.get(index, field);
      if (value == nullptr) fault("format field \"{", field, "}\" has no value");
      out += to_text(*value);
      i = end;
    }
  }
  return out;
}

const std::map<std::string, StringMethod>& string_methods() {
  static const std::map<std::string, StringMethod> methods = {
      {"strip", strip_method<true, true>},
      {"lstrip", strip_method<true, false>},
      {"rstrip", strip_method<false, true>},
      {"split", split_method<false>},
      {"rsplit", split_method<true>},
      {"splitlines", split_lines},
      {"startswith", affix_method<true>},
      {"endswith", affix_method<false>},
      {"removeprefix", remove_affix<true>},
      {"removesuffix", remove_affix<false>},
      {"upper", [](const std::string& s, const Arguments&) -> Value { return upper_case(s); }},
      {"lower", [](const std::string& s, const Arguments&) -> Value { return lower_case(s); }},
      {"capitalize", [](const std::string& s, const Arguments&) -> Value { return capitalize(s); }},
      {"title", title_method},
      {"replace",
       [](const std::string& s, const Arguments& a) -> Value {
         return replace_text(s, required_text(a, 0, "replace"), required_text(a, 1, "replace"),
                             integer_argument(a, 2, "count", -1));
       }},
      {"find", find_in_string<false>},
      {"rfind", find_in_string<true>},
      {"count", count_in_string},
      {"join", join_method},
      {"format", format_method},
      {"isdigit", all_characters<std::isdigit>},
      {"isalpha", all_characters<std::isalpha>},
      {"isalnum", all_characters<std::isalnum>},
      {"isspace", all_characters<std::isspace>},
  };
  return methods;
}

Value dict_items(const Dict& dict, const Arguments&) {
  List list;
  for (const auto& [key, value] : dict.items) list.items.push_back(Value::tuple({key, value}));
  return Value(std::move(list));
}

Value dict_keys(const Dict& dict, const Arguments&) {
  List list;
  for (const auto& item : dict.items) list.items.push_back(item.first);
  return Value(std::move(list));
}

Value dict_values(const Dict& dict, const Arguments&) {
  List list;
  for (const auto& item : dict.items) list.items.push_back(item.second);
  return Value(std::move(list));
}

Value dict_get(const Dict& dict, const Arguments& arguments) {
  const Value* found = dict.find(required(arguments, 0, "get"));
  if (found != nullptr) return *found;
  const Value* fallback = arguments.get(1, "default");
  return fallback != nullptr ? *fallback : Value(None{});
}

const std::map<std::string, DictMethod>& dict_methods() {
  static const std::map<std::string, DictMethod> methods = {
      {"items", dict_items},
      {"keys", dict_keys},
      {"values", dict_values},
      {"get", dict_get},
      {"copy", [](const Dict& dict, const Arguments&) { return Value(Dict(dict)); }},
  };
  return methods;
}

const std::map<std::string, ListMethod>& list_methods() {
  static const std::map<std::string, ListMethod> methods = {
      {"index",
       [](const List& list, const Arguments& a) -> Value {
         const Value& wanted = required(a, 0, "index");
         for (size_t i = 0; i < list.items.size(); ++i) {
           if (equal(list.items[i], wanted)) return static_cast<int64_t>(i);
         }
         fault(to_repr(wanted), " is not in list");
       }},
      {"count",
       [](const List& list, const Arguments& a) -> Value {
         const Value& wanted = required(a, 0, "count");
         return static_cast<int64_t>(
             std::count_if(list.items.begin(), list.items.end(),
                           [&wanted](const Value& item) { return equal(item, wanted); }));
       }},
  };
  return methods;
}

// Methods that would change a value: the sandbox of transformers refuses them.
bool is_mutating(const Value& value, const std::string& name) {
  for (const char* method : {"append", "extend", "insert", "remove", "reverse", "sort"}) {
    if (value.is_list() && name == method) return true;
  }
  for (const char* method : {"update", "setdefault", "popitem"}) {
    if (value.is_dict() && name == method) return true;
  }
  return (value.is_list() || value.is_dict()) && (name == "pop" || name == "clear");
}

template <typename Method>
Value bind(const std::map<std::string, Method>& methods, const std::string& name,
           const Value& value) {
  const auto found = methods.find(name);
  if (found == methods.end()) return Value();
  const Method method = found->second;
  if constexpr (std::is_same_v<Method, StringMethod>) {
    return Callable([value, method](const Arguments& a) { return method(value.string(), a); });
  } else if constexpr (std::is_same_v<Method, ListMethod>) {
    return Callable([value, method](const Arguments& a) { return method(value.as_list(), a); });
  } else {
    return Callable([value, method](const Arguments& a) { return method(value.as_dict(), a); });
  }
}

}  // namespace

Value find_method(const Value& value, const std::string& name) {
  const bool is_namespace = value.is_dict() && value.as_dict().is_namespace;
  if (is_namespace) return Value();
  if (is_mutating(value, name)) {
    return Callable([name](const Arguments&) -> Value {
      fault("method \"", name, "\" would change a value, which templates may not");
    });
  }
  if (value.is_string()) return bind(string_methods(), name, value);
  if (value.is_list()) return bind(list_methods(), name, value);
  if (value.is_dict()) return bind(dict_methods(), name, value);
  return Value();
}

}  // namespace quarry::jinja
