#include "generator/models/folder_text.h"

#include <fstream>
#include <iterator>
#include <string>

#include "data/core/error.h"
#include "data/core/json.h"

namespace quarry {
namespace {

Json read_object_if_present(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Json::object();
  Json json = read_json_file(path);
  QUARRY_CHECK(json.is_object(), ErrorCode::kCorruptData, path.string(), ": holds a JSON ",
               json.type_name(), ", an object is wanted");
  return json;
}

// A special token is written as a string or as {"content": "..."}.
std::string token_text(const Json& config, const char* key) {
  const auto it = config.find(key);
  if (it == config.end()) return "";
  if (it->is_string()) return it->get<std::string>();
  if (it->is_object() && it->contains("content") && it->at("content").is_string()) {
    return it->at("content").get<std::string>();
  }
  return "";
}

std::string template_text(const Json& config, const std::string& source) {
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) return "";
  if (it->is_string()) return it->get<std::string>();
  if (it->is_array()) {
    for (const Json& entry : *it) {
      if (entry.is_object() && entry.value("name", "") == "default") {
        return entry.value("template", "");
      }
    }
  }
  throw_error(ErrorCode::kCorruptData, source,
              ": 'chat_template' is neither a string nor a list with one named 'default'");
}

}  // namespace

std::unique_ptr<ChatTemplate> load_folder_chat_template(const std::filesystem::path& folder) {
  const std::filesystem::path config_path = folder / "tokenizer_config.json";
  const Json config = read_object_if_present(config_path);
  std::string text;
  std::filesystem::path path = folder / "chat_template.jinja";
  std::ifstream file(path, std::ios::binary);
  if (file) {
    text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  } else {
    path = config_path;
    text = template_text(config, path.string());
  }
  if (text.empty()) return nullptr;
  return naming_source(path.string(), [&] {
    return std::make_unique<ChatTemplate>(text, token_text(config, "bos_token"),
                                          token_text(config, "eos_token"));
  });
}

Json read_folder_config(const std::filesystem::path& folder) {
  Json config = read_json_file(folder / "config.json");
  const Json generation = read_object_if_present(folder / "generation_config.json");
  if (!config.is_object()) return config;
  for (const char* key : {"decoder_start_token_id", "forced_bos_token_id"}) {
    const auto it = generation.find(key);
    if (it != generation.end() && !it->is_null()) config[key] = *it;
  }
  return config;
}

std::vector<int64_t> folder_end_tokens(const std::filesystem::path& folder) {
  std::vector<int64_t> ids;
  for (const char* name : {"generation_config.json", "config.json"}) {
    const Json config = read_object_if_present(folder / name);
    const auto it = config.find("eos_token_id");
    if (it == config.end() || it->is_null()) continue;
    const Json list = it->is_array() ? *it : Json::array({*it});
    for (const Json& id : list) {
      QUARRY_CHECK(id.is_number_integer(), ErrorCode::kCorruptData, (folder / name).string(),
                   ": 'eos_token_id' is ", dump_json(*it).substr(0, 80),
                   ", wanted an integer or a list of them");
      ids.push_back(id.get<int64_t>());
    }
  }
  return ids;
}

}  // namespace quarry
