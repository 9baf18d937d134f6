#include <map>

#include "data/text/jinja/builtins.h"

namespace quarry::jinja {
namespace {

using Test = bool (*)(const Value&, const Arguments&);

const Value& other(const Arguments& arguments) {
  const Value* value = arguments.get(0, "other");
  if (value == nullptr) fault("this test wants an argument");
  return *value;
}

int64_t whole(const Value& value) {
  if (!value.is_integral()) fault("this test wants an integer, not ", type_name(value));
  return value.integer();
}

bool can_iterate(const Value& value) {
  return value.is_undefined() || value.is_string() || value.is_list() ||
         (value.is_dict() && !value.as_dict().is_namespace);
}

bool same_value(const Value& a, const Arguments& b) { return equal(a, other(b)); }
bool differs(const Value& a, const Arguments& b) { return !equal(a, other(b)); }
bool less(const Value& a, const Arguments& b) { return compare(a, other(b)) < 0; }
bool at_most(const Value& a, const Arguments& b) { return compare(a, other(b)) <= 0; }
bool greater(const Value& a, const Arguments& b) { return compare(a, other(b)) > 0; }
bool at_least(const Value& a, const Arguments& b) { return compare(a, other(b)) >= 0; }

const std::map<std::string, Test>& tests() {
  static const std::map<std::string, Test> table = {
      {"defined", [](const Value& v, const Arguments&) { return !v.is_undefined(); }},
      {"undefined", [](const Value& v, const Arguments&) { return v.is_undefined(); }},
      {"none", [](const Value& v, const Arguments&) { return v.is_none(); }},
      {"string", [](const Value& v, const Arguments&) { return v.is_string(); }},
      {"mapping",
       [](const Value& v, const Arguments&) { return v.is_dict() && !v.as_dict().is_namespace; }},
      {"iterable", [](const Value& v, const Arguments&) { return can_iterate(v); }},
      {"sequence", [](const Value& v, const Arguments&) { return can_iterate(v); }},
      {"number", [](const Value& v, const Arguments&) { return v.is_number(); }},
      {"integer", [](const Value& v, const Arguments&) { return v.is<int64_t>(); }},
      {"float", [](const Value& v, const Arguments&) { return v.is<double>(); }},
      {"boolean", [](const Value& v, const Arguments&) { return v.is<bool>(); }},
      {"true", [](const Value& v, const Arguments&) { return v.is<bool>() && truthy(v); }},
      {"false", [](const Value& v, const Arguments&) { return v.is<bool>() && !truthy(v); }},
      {"callable", [](const Value& v, const Arguments&) { return v.is_callable(); }},
      {"odd", [](const Value& v, const Arguments&) { return whole(v) % 2 != 0; }},
      {"even", [](const Value& v, const Arguments&) { return whole(v) % 2 == 0; }},
      {"divisibleby",
       [](const Value& v, const Arguments& a) {
         const int64_t divisor = whole(other(a));
         if (divisor == 0) fault("division by zero");
         return divisor == -1 || whole(v) % divisor == 0;
       }},
      {"lower",
       [](const Value& v, const Arguments&) {
         const std::string text = to_text(v);
         return lower_case(text) == text && upper_case(text) != text;
       }},
      {"upper",
       [](const Value& v, const Arguments&) {
         const std::string text = to_text(v);
         return upper_case(text) == text && lower_case(text) != text;
       }},
      {"in", [](const Value& v, const Arguments& a) { return contains(other(a), v); }},
      {"sameas", [](const Value& v, const Arguments& a) { return v.same_object(other(a)); }},
      {"filter",
       [](const Value& v, const Arguments&) { return v.is_string() && is_filter(v.string()); }},
      {"test",
       [](const Value& v, const Arguments&) { return v.is_string() && is_test(v.string()); }},
      {"equalto", same_value},
      {"eq", same_value},
      {"==", same_value},
      {"ne", differs},
      {"!=", differs},
      {"lt", less},
      {"lessthan", less},
      {"<", less},
      {"le", at_most},
      {"<=", at_most},
      {"gt", greater},
      {"greaterthan", greater},
      {">", greater},
      {"ge", at_least},
      {">=", at_least},
  };
  return table;
}

}  // namespace

bool is_test(const std::string& name) { return tests().count(name) > 0; }

bool apply_test(const std::string& name, const Value& value, const Arguments& arguments) {
  const auto found = tests().find(name);
  if (found == tests().end()) fault("no test named '", name, "'");
  return found->second(value, arguments);
}

}  // namespace quarry::jinja
