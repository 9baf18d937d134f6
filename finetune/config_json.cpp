#include <yaml-cpp/yaml.h>

#include "finetune/config.h"

namespace quarry {
namespace {

// A number or truth value as JSON writes it; any other text stays a string, none is null.
OrderedJson scalar_json(const std::string& text) {
  if (text.empty()) return nullptr;
  const OrderedJson value = OrderedJson::parse(text, nullptr, false);
  return value.is_number() || value.is_boolean() ? value : OrderedJson(text);
}

OrderedJson node_json(const YAML::Node& node) {
  if (node.IsSequence()) {
    OrderedJson list = OrderedJson::array();
    for (const auto& item : node) list.push_back(node_json(item));
    return list;
  }
  if (node.IsMap()) {
    OrderedJson map = OrderedJson::object();
    for (const auto& item : node) map[item.first.Scalar()] = node_json(item.second);
    return map;
  }
  return node.IsScalar() ? scalar_json(node.Scalar()) : OrderedJson();
}

}  // namespace

OrderedJson to_json(const FinetuneConfig& config) {
  OrderedJson json;
  for (const ConfigField& field : config_fields()) {
    const std::string text = field.get(config);
    const size_t dot = field.name.find('.');
    OrderedJson& place = dot == std::string::npos
                             ? json[field.name]
                             : json[field.name.substr(0, dot)][field.name.substr(dot + 1)];
    const bool is_scalar = field.kind == ConfigField::Kind::kScalar;
    place = is_scalar ? scalar_json(text) : node_json(YAML::Load(text));
  }
  return json;
}

}  // namespace quarry
