#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "data/core/json.h"

namespace quarry::jinja {

// A template asked for something wrong. The evaluator adds the line and turns it into
// quarry::Error.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
[[noreturn]] void fault(Parts&&... parts) {
  throw Fault(concat(std::forward<Parts>(parts)...));
}

class Value;

struct None {};
// What a missing variable, attribute or item gives. Printing it prints nothing, using it further is
// a fault with `reason`.
struct Undefined {
  std::string reason;
};
struct List {
  std::vector<Value> items;
  bool is_tuple = false;
};
// Keys in order of insertion.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  bool is_namespace = false;

  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(const Value& key, Value value);
};
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at `index` or called `name`, or null.
  const Value* get(size_t index, std::string_view name) const;
};
using Callable = std::function<Value(const Arguments&)>;

// A Python value as templates see it. Copies of lists, dictionaries and functions share. However
// deep lists and dictionaries are nested, they are freed without recursion.
class Value {
 public:
  Value() : data_(Undefined{}) {}
  Value(None none) : data_(none) {}  // NOLINT(google-explicit-constructor)
  Value(Undefined undefined) : data_(std::move(undefined)) {}                     // NOLINT
  Value(bool value) : data_(value) {}                                             // NOLINT
  Value(int64_t value) : data_(value) {}                                          // NOLINT
  Value(double value) : data_(value) {}                                           // NOLINT
  Value(std::string value) : data_(std::move(value)) {}                           // NOLINT
  Value(const char* value) : data_(std::string(value)) {}                         // NOLINT
  Value(Callable value) : data_(std::make_shared<Callable>(std::move(value))) {}  // NOLINT
  explicit Value(List list);
  explicit Value(Dict dict);
  static Value list(std::vector<Value> items) { return Value(List{std::move(items), false}); }
  static Value tuple(std::vector<Value> items) { return Value(List{std::move(items), true}); }

  template <typename T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  bool is_list() const { return is<std::shared_ptr<List>>(); }
  bool is_dict() const { return is<std::shared_ptr<Dict>>(); }
  bool is_callable() const { return is<std::shared_ptr<Callable>>(); }
  bool is_string() const { return is<std::string>(); }
  bool is_undefined() const { return is<Undefined>(); }
  bool is_none() const { return is<None>(); }
  bool is_number() const { return is<bool>() || is<int64_t>() || is<double>(); }
  bool is_integral() const { return is<bool>() || is<int64_t>(); }

  // REQUIRES: the matching kind.
  const std::string& string() const { return std::get<std::string>(data_); }
  const List& as_list() const { return *std::get<std::shared_ptr<List>>(data_); }
  const Dict& as_dict() const { return *std::get<std::shared_ptr<Dict>>(data_); }
  Dict& mutable_dict() const { return *std::get<std::shared_ptr<Dict>>(data_); }
  const Callable& callable() const { return *std::get<std::shared_ptr<Callable>>(data_); }
  const Undefined& undefined() const { return std::get<Undefined>(data_); }
  int64_t integer() const { return is<bool>() ? std::get<bool>(data_) : std::get<int64_t>(data_); }
  double number() const {
    return is<double>() ? std::get<double>(data_) : static_cast<double>(integer());
  }
  // True for the same object (Python's `is`).
  bool same_object(const Value& other) const;

 private:
  std::variant<Undefined, None, bool, int64_t, double, std::string, std::shared_ptr<List>,
               std::shared_ptr<Dict>, std::shared_ptr<Callable>>
      data_;
};

Value from_json(const OrderedJson& json);

// Python's name of the type, for messages: "str", "dict", ...
const char* type_name(const Value& value);
bool truthy(const Value& value);
bool equal(const Value& a, const Value& b);
// < 0, 0, > 0. Faults when the two have no order.
int compare(const Value& a, const Value& b);
bool contains(const Value& container, const Value& item);
// str(value); nothing for undefined.
std::string to_text(const Value& value);
// repr(value)
std::string to_repr(const Value& value);
std::string float_text(double value);
// What a `for` runs over: items, keys, characters. Faults for a value that cannot be iterated.
std::vector<Value> iterate(const Value& value);
// len(value). Faults for a value without a length.
int64_t length(const Value& value);

struct JsonTextOptions {
  int64_t indent = -1;  // -1: one line
  bool sort_keys = false;
  bool ensure_ascii = false;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
// Python's json.dumps.
std::string to_json_text(const Value& value, const JsonTextOptions& options);

}  // namespace quarry::jinja
