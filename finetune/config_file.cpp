// Which kind of configuration a file is.
#include <yaml-cpp/yaml.h>

#include <fstream>

#include "data/core/error.h"
#include "finetune/config_readers.h"

namespace quarry {
namespace {

constexpr size_t kMaxConfigBytes = size_t{1} << 20;

bool has_any(const YAML::Node& root, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    if (root[key]) return true;
  }
  return false;
}

// A JSON object with keys that only a LoraConfig has at its top.
bool is_peft(const std::string& text, const YAML::Node& root) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string::npos && text[first] == '{' &&
         has_any(root, {"peft_type", "lora_alpha", "target_modules"});
}

}  // namespace

std::string read_config_text(const std::filesystem::path& path) {
  std::error_code ignored;
  QUARRY_CHECK(!std::filesystem::is_directory(path, ignored), ErrorCode::kInvalidArgument,
               path.string(), ": is a folder, wanted the configuration's file");
  std::ifstream in(path, std::ios::binary);
  QUARRY_CHECK(in, ErrorCode::kNotFound, path.string(), ": cannot open the configuration");
  std::string text(kMaxConfigBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  QUARRY_CHECK(text.size() <= kMaxConfigBytes, ErrorCode::kInvalidArgument, path.string(),
               ": larger than ", kMaxConfigBytes, " bytes: not a configuration");
  return text;
}

void read_config(const std::string& text, const std::string& source, FinetuneConfig& config) {
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception&) {
    return read_config_yaml(text, source, config);  // says what is wrong
  }
  if (!root.IsMap()) return read_config_yaml(text, source, config);
  FinetuneConfig changed = config;
  if (is_peft(text, root)) {
    parse_json(text, source, ErrorCode::kInvalidArgument);
    read_peft_config(OrderedJson::parse(text), source, changed);
  } else if (has_any(root, {"model_type", "base_model", "input_features", "output_features"})) {
    read_ludwig_config(text, source, changed);
  } else {
    read_config_yaml(text, source, changed);
  }
  config = std::move(changed);
}

void load_config(const std::filesystem::path& path, FinetuneConfig& config) {
  read_config(read_config_text(path), path.string(), config);
}

}  // namespace quarry
