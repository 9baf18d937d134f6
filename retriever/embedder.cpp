#include "retriever/embedder.h"

#include <cctype>
#include <filesystem>

#include "data/core/json.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

// "multilingual-e5-small" and "e5-small-v2", not "made5".
bool names_e5(const std::string& name) {
  for (size_t at = 0; at + 2 <= name.size(); ++at) {
    const auto alnum_at = [&name](size_t i) {
      return i < name.size() && std::isalnum(static_cast<unsigned char>(name[i])) != 0;
    };
    const bool match = (name[at] == 'e' || name[at] == 'E') && name[at + 1] == '5';
    if (match && (at == 0 || !alnum_at(at - 1)) && !alnum_at(at + 2)) return true;
  }
  return false;
}

std::string prompt(const Json& prompts, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto found = prompts.find(name);
    if (found != prompts.end() && found->is_string()) return found->get<std::string>();
  }
  return "";
}

}  // namespace

EmbedderPrefixes embedder_prefixes(const std::string& name, const std::string& path) {
  const fs::path config = fs::path(path) / "config_sentence_transformers.json";
  EmbedderPrefixes prefixes;
  if (fs::is_regular_file(config)) {
    const Json root = read_json_file(config, size_t{1} << 20);
    const auto prompts = root.is_object() ? root.find("prompts") : root.end();
    if (root.is_object() && prompts != root.end() && prompts->is_object()) {
      prefixes.query = prompt(*prompts, {"query"});
      prefixes.passage = prompt(*prompts, {"passage", "document"});
    }
  }
  if (prefixes.query.empty() && prefixes.passage.empty() && names_e5(name)) {
    prefixes = {"query: ", "passage: "};
  }
  return prefixes;
}

Embedder::Embedder(LoadedEncoder encoder)
    : encoder_(std::move(encoder)), prefixes_(embedder_prefixes(encoder_.name, encoder_.path)) {}

std::unique_ptr<Embedder> Embedder::load(const std::string& model) {
  return std::make_unique<Embedder>(load_text_encoder(model, kernels::Precision::kFast));
}

std::vector<float> Embedder::embed(const std::string& prefix,
                                   const std::vector<std::string>& texts) const {
  if (prefix.empty()) return encoder_.model->encode(texts);
  std::vector<std::string> prefixed;
  prefixed.reserve(texts.size());
  for (const std::string& text : texts) prefixed.push_back(prefix + text);
  return encoder_.model->encode(prefixed);
}

std::vector<float> Embedder::embed_query(const std::string& query) const {
  return embed(prefixes_.query, {query});
}

std::vector<float> Embedder::embed_queries(const std::vector<std::string>& queries) const {
  return embed(prefixes_.query, queries);
}

std::vector<float> Embedder::embed_passages(const std::vector<std::string>& texts) const {
  return embed(prefixes_.passage, texts);
}

}  // namespace quarry
