#include <ctime>

#include "data/text/jinja/builtins.h"

namespace quarry::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // of Jinja2's sandbox

Value make_range(const Arguments& arguments) {
  const size_t given = arguments.positional.size();
  if (given < 1 || given > 3) fault("range() wants 1 to 3 integers, not ", given);
  const int64_t start = given > 1 ? integer_argument(arguments, 0, "start", 0) : 0;
  const int64_t stop = integer_argument(arguments, given > 1 ? 1 : 0, "stop", 0);
  const int64_t step = given > 2 ? integer_argument(arguments, 2, "step", 1) : 1;
  if (step == 0) fault("range() arg 3 must not be zero");
  List list;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(list.items.size()) >= kMaxRange) {
      fault("range too big: the most is ", kMaxRange);
    }
    list.items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return Value(std::move(list));
}

Value make_dict(const Arguments& arguments, bool is_namespace) {
  Dict dict;
  dict.is_namespace = is_namespace;
  for (const Value& source : arguments.positional) {
    if (!source.is_dict()) fault("dict() wants a dictionary, not ", type_name(source));
    for (const auto& [key, value] : source.as_dict().items) dict.set(key, value);
  }
  for (const auto& [name, value] : arguments.named) dict.set(name, value);
  return Value(std::move(dict));
}

Value strftime_now(const Arguments& arguments) {
  const std::string format = text_argument(arguments, 0, "format", "");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char buffer[512];
  const size_t size = std::strftime(buffer, sizeof(buffer), format.c_str(), &local);
  return std::string(buffer, size);
}

Value raise_exception(const Arguments& arguments) {
  const Value* message = arguments.get(0, "message");
  fault(message != nullptr ? to_text(*message) : std::string("raise_exception without a message"));
}

}  // namespace

Value find_global(const std::string& name) {
  if (name == "range") return Callable(make_range);
  if (name == "namespace") return Callable([](const Arguments& a) { return make_dict(a, true); });
  if (name == "dict") return Callable([](const Arguments& a) { return make_dict(a, false); });
  if (name == "raise_exception") return Callable(raise_exception);
  if (name == "strftime_now") return Callable(strftime_now);
  return Undefined{"'" + name + "' is undefined"};
}

}  // namespace quarry::jinja
