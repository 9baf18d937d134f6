#include <algorithm>
#include <cmath>

#include "data/text/jinja/builtins.h"

namespace quarry::jinja {
namespace {

constexpr int64_t kMaxRepeatedBytes = int64_t{64} << 20;
constexpr size_t kMaxListItems = 1'000'000;

[[noreturn]] void unsupported(const std::string& name, const Value& left, const Value& right) {
  if (left.is_undefined()) fault(left.undefined().reason);
  if (right.is_undefined()) fault(right.undefined().reason);
  fault("unsupported operand types for ", name, ": '", type_name(left), "' and '", type_name(right),
        "'");
}

// Floor division and its remainder, as Python rounds them.
Value integer_arithmetic(const std::string& name, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (name == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (name == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (name == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (name == "**") {
    if (b < 0) return std::pow(static_cast<double>(a), static_cast<double>(b));
    result = 1;
    for (int64_t i = 0; i < b && !overflow && !(a == 1 || a == 0); ++i) {
      overflow = __builtin_mul_overflow(result, a, &result);
      if (a == -1) {
        result = b % 2 == 0 ? 1 : -1;
        break;
      }
    }
    if (a == 0 && b > 0) result = 0;
  } else {
    if (b == 0) fault("division by zero");
    if (name == "/") return static_cast<double>(a) / static_cast<double>(b);
    if (b == -1) {
      overflow = __builtin_sub_overflow(int64_t{0}, a, &result);
      if (name == "%") return int64_t{0};
    } else {
      const int64_t rest = a % b;
      const bool adjust = rest != 0 && (rest < 0) != (b < 0);
      result = name == "%" ? rest + (adjust ? b : 0) : a / b - (adjust ? 1 : 0);
    }
  }
  if (overflow) fault("integer overflow in ", a, " ", name, " ", b);
  return result;
}

Value float_arithmetic(const std::string& name, double a, double b) {
  if (name == "+") return a + b;
  if (name == "-") return a - b;
  if (name == "*") return a * b;
  if (name == "**") return std::pow(a, b);
  if (b == 0.0) fault("float division by zero");
  if (name == "/") return a / b;
  if (name == "//") return std::floor(a / b);
  const double rest = std::fmod(a, b);
  return rest != 0.0 && (rest < 0.0) != (b < 0.0) ? rest + b : rest;
}

Value repeat(const Value& value, int64_t count) {
  const int64_t times = std::max<int64_t>(count, 0);
  if (value.is_string()) {
    const auto size = static_cast<int64_t>(value.string().size());
    if (size > 0 && times > kMaxRepeatedBytes / size) fault("repeated string is too long");
    std::string out;
    for (int64_t i = 0; size > 0 && i < times; ++i) out += value.string();
    return out;
  }
  List out;
  out.is_tuple = value.as_list().is_tuple;
  const auto& items = value.as_list().items;
  if (!items.empty() && times > static_cast<int64_t>(kMaxListItems / items.size())) {
    fault("repeated list is too long");
  }
  for (int64_t i = 0; !items.empty() && i < times; ++i) {
    out.items.insert(out.items.end(), items.begin(), items.end());
  }
  return Value(std::move(out));
}

// Python's slice bounds: {first index, step, number of items}.
struct SliceRange {
  int64_t first = 0;
  int64_t step = 1;
  int64_t count = 0;
};

SliceRange slice_range(int64_t size, const Value* start, const Value* stop, const Value* step) {
  const auto integer = [](const Value* value, int64_t fallback) {
    if (value == nullptr) return fallback;
    if (!value->is_integral()) {
      fault("slice indices must be integers or None, not ", type_name(*value));
    }
    return value->integer();
  };
  SliceRange range;
  range.step = integer(step, 1);
  if (range.step == 0) fault("slice step cannot be zero");
  const bool down = range.step < 0;
  const int64_t low = down ? -1 : 0;
  const int64_t high = down ? size - 1 : size;
  const auto bound = [&](const Value* value, int64_t fallback) {
    if (value == nullptr) return fallback;
    int64_t index = integer(value, 0);
    if (index < 0) index = index < -size ? low : index + size;
    return std::clamp(index, low, std::max(low, high));
  };
  range.first = bound(start, down ? high : low);
  const int64_t last = bound(stop, down ? low : high);
  const int64_t distance = down ? range.first - last : last - range.first;
  // Unsigned: the most negative step has no positive twin.
  const uint64_t stride =
      down ? uint64_t{0} - static_cast<uint64_t>(range.step) : static_cast<uint64_t>(range.step);
  if (distance > 0) {
    range.count = static_cast<int64_t>((static_cast<uint64_t>(distance) - 1) / stride + 1);
  }
  return range;
}

}  // namespace

Value apply_binary(const std::string& name, const Value& left, const Value& right) {
  if (name == "~") return to_text(left) + to_text(right);
  if (left.is_integral() && right.is_integral()) {
    return integer_arithmetic(name, left.integer(), right.integer());
  }
  if (left.is_number() && right.is_number()) {
    return float_arithmetic(name, left.number(), right.number());
  }
  if (name == "+" && left.is_string() && right.is_string()) {
    if (left.string().size() + right.string().size() > static_cast<size_t>(kMaxRepeatedBytes)) {
      fault("string is too long");
    }
    return left.string() + right.string();
  }
  if (name == "+" && left.is_list() && right.is_list() &&
      left.as_list().is_tuple == right.as_list().is_tuple) {
    List sum = left.as_list();
    const auto& more = right.as_list().items;
    if (sum.items.size() + more.size() > kMaxListItems) fault("list is too long");
    sum.items.insert(sum.items.end(), more.begin(), more.end());
    return Value(std::move(sum));
  }
  if (name == "*" && right.is_integral() && (left.is_string() || left.is_list())) {
    return repeat(left, right.integer());
  }
  if (name == "*" && left.is_integral() && (right.is_string() || right.is_list())) {
    return repeat(right, left.integer());
  }
  unsupported(name, left, right);
}

Value negate(const Value& value) {
  if (value.is<double>()) return -value.number();
  if (value.is_integral()) return integer_arithmetic("-", 0, value.integer());
  if (value.is_undefined()) fault(value.undefined().reason);
  fault("bad operand type for unary -: '", type_name(value), "'");
}

Value get_attribute(const Value& value, const std::string& name) {
  if (value.is_undefined()) fault(value.undefined().reason);
  const Value method = find_method(value, name);
  if (!method.is_undefined()) return method;
  if (value.is_dict()) {
    const Value* item = value.as_dict().find(std::string_view(name));
    if (item != nullptr) return *item;
  }
  return Undefined{concat("'", type_name(value), " object' has no attribute '", name, "'")};
}

Value get_item(const Value& value, const Value& key) {
  if (value.is_undefined()) fault(value.undefined().reason);
  if (value.is_dict()) {
    const Value* item = value.as_dict().find(key);
    if (item != nullptr) return *item;
  } else if ((value.is_list() || value.is_string()) && key.is_integral()) {
    const int64_t size = length(value);
    const int64_t index = key.integer() < 0 ? key.integer() + size : key.integer();
    if (index < 0 || index >= size) {
      return Undefined{concat("'", type_name(value), " object' has no element ", key.integer())};
    }
    if (value.is_list()) return value.as_list().items[static_cast<size_t>(index)];
    return iterate(value)[static_cast<size_t>(index)];
  }
  if (key.is_string()) return get_attribute(value, key.string());
  return Undefined{concat("'", type_name(value), " object' has no element ", to_repr(key))};
}

Value get_slice(const Value& value, const Value* start, const Value* stop, const Value* step) {
  if (value.is_undefined()) fault(value.undefined().reason);
  if (!value.is_list() && !value.is_string()) {
    fault("'", type_name(value), "' object cannot be sliced");
  }
  const std::vector<Value> items = iterate(value);
  const SliceRange range = slice_range(static_cast<int64_t>(items.size()), start, stop, step);
  List out;
  std::string text;
  for (int64_t i = 0, at = range.first; i < range.count; ++i) {
    const Value& item = items[static_cast<size_t>(at)];
    if (value.is_string()) {
      text += item.string();
    } else {
      out.items.push_back(item);
    }
    if (i + 1 < range.count) at += range.step;
  }
  if (value.is_string()) return text;
  out.is_tuple = value.as_list().is_tuple;
  return Value(std::move(out));
}

}  // namespace quarry::jinja
