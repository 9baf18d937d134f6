#include "finetune/config_text.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

#include "data/core/error.h"

namespace quarry::config_text {
namespace {

constexpr int kMaxReportedText = 200;

template <typename Value>
bool parse_whole(const std::string& text, Value& value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end && !text.empty();
}

YAML::Node parse_flow(const std::string& name, const std::string& text, const char* wanted) {
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw_value(name, text, concat(wanted, " (", error.msg, ")"));
  }
}

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\n\r");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\n\r") - begin + 1);
}

}  // namespace

void throw_value(const std::string& name, const std::string& text, const std::string& wanted) {
  throw_error(ErrorCode::kInvalidArgument, name, " is \"", text.substr(0, kMaxReportedText),
              "\", wanted ", wanted);
}

int64_t to_integer(const std::string& name, const std::string& text, int64_t min, int64_t max) {
  int64_t value = 0;
  if (!parse_whole(text, value) || value < min || value > max) {
    throw_value(name, text, concat("a whole number from ", min, " to ", max));
  }
  return value;
}

uint64_t to_unsigned(const std::string& name, const std::string& text) {
  uint64_t value = 0;
  if (!parse_whole(text, value)) throw_value(name, text, "a whole number from 0 to 2^64 - 1");
  return value;
}

double to_real(const std::string& name, const std::string& text, double min, double max) {
  double value = 0;
  if (!parse_whole(text, value) || !std::isfinite(value) || value < min || value > max) {
    throw_value(name, text, concat("a number from ", from_real(min), " to ", from_real(max)));
  }
  return value;
}

bool to_flag(const std::string& name, const std::string& text) {
  for (const char* yes : {"true", "on", "yes", "1"}) {
    if (text == yes) return true;
  }
  for (const char* no : {"false", "off", "no", "0"}) {
    if (text == no) return false;
  }
  throw_value(name, text, "true or false");
}

size_t to_choice(const std::string& name, const std::string& text,
                 const std::vector<std::string>& choices) {
  const auto found = std::find(choices.begin(), choices.end(), text);
  if (found == choices.end()) {
    std::string wanted = "one of";
    for (const std::string& choice : choices)
      wanted += (choice == choices[0] ? " " : ", ") + choice;
    throw_value(name, text, wanted);
  }
  return static_cast<size_t>(found - choices.begin());
}

std::vector<std::string> to_list(const std::string& name, const std::string& text) {
  constexpr const char* kWanted = "a list: \"a,b\" or \"[a, b]\"";
  std::vector<std::string> values;
  const std::string list = trimmed(text);
  if (list.empty()) return values;
  if (list[0] == '[') {
    const YAML::Node node = parse_flow(name, list, kWanted);
    if (!node.IsSequence()) throw_value(name, text, kWanted);
    for (const YAML::Node& item : node) {
      if (!item.IsScalar()) throw_value(name, text, kWanted);
      values.push_back(item.Scalar());
    }
  } else {
    for (size_t begin = 0; begin <= list.size();) {
      const size_t end = std::min(list.find(',', begin), list.size());
      values.push_back(trimmed(list.substr(begin, end - begin)));
      begin = end + 1;
    }
  }
  if (std::find(values.begin(), values.end(), "") != values.end()) {
    throw_value(name, text, "a list without empty items");
  }
  return values;
}

std::vector<std::pair<std::string, std::string>> to_map(const std::string& name,
                                                        const std::string& text) {
  constexpr const char* kWanted = "a map: \"{key: value}\"";
  std::vector<std::pair<std::string, std::string>> values;
  const std::string map = trimmed(text);
  if (map.empty()) return values;
  const YAML::Node node = parse_flow(name, map, kWanted);
  if (!node.IsMap()) throw_value(name, text, kWanted);
  std::set<std::string> keys;
  for (const auto& item : node) {
    if (!item.first.IsScalar() || !item.second.IsScalar()) throw_value(name, text, kWanted);
    if (!keys.insert(item.first.Scalar()).second) throw_value(name, text, "each key once");
    values.emplace_back(item.first.Scalar(), item.second.Scalar());
  }
  return values;
}

std::string from_real(double value) {
  std::array<char, 64> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  return {buffer.data(), end};
}

std::string from_list(const std::vector<std::string>& values) {
  YAML::Emitter out;
  out << YAML::Flow << YAML::BeginSeq;
  for (const std::string& value : values) out << value;
  out << YAML::EndSeq;
  return out.c_str();
}

std::string from_map(const std::vector<std::pair<std::string, std::string>>& values) {
  YAML::Emitter out;
  out << YAML::Flow << YAML::BeginMap;
  for (const auto& [key, value] : values) out << YAML::Key << key << YAML::Value << value;
  out << YAML::EndMap;
  return out.c_str();
}

}  // namespace quarry::config_text
