#include "retriever/embedder.h"

#include <cctype>
#include <filesystem>

#include "data/core/error.h"
#include "data/core/hash.h"
#include "data/core/json.h"
#include "generator/nn/lora.h"
#include "generator/nn/lora_save.h"

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

std::vector<std::string> with_prefix(const std::string& prefix, std::vector<std::string> texts) {
  for (std::string& text : texts) text.insert(0, prefix);
  return texts;
}

std::shared_ptr<const LoraAdapter> load_adapter(const fs::path& folder,
                                                const LoadedEncoder& encoder) {
  if (folder.empty()) return nullptr;
  check_adapter_base(folder, encoder.content_hash, encoder.name);
  return LoraAdapter::load(folder, encoder.model->linear_slots(), {});
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

Embedder::Embedder(LoadedEncoder encoder, std::shared_ptr<const LoraAdapter> query_adapter,
                   std::optional<LoadedEncoder> query_encoder,
                   std::shared_ptr<const LoraAdapter> adapter)
    : encoder_(std::move(encoder)),
      query_encoder_(std::move(query_encoder)),
      query_adapter_(std::move(query_adapter)),
      adapter_(std::move(adapter)),
      content_hash_(adapter_ == nullptr
                        ? encoder_.content_hash
                        : sha256_hex(encoder_.content_hash + "\n" + adapter_->content_hash())),
      prefixes_(embedder_prefixes(encoder_.name, encoder_.path)) {
  if (!query_encoder_) {
    if (query_adapter_ == nullptr) query_adapter_ = adapter_;
    return;
  }
  QUARRY_CHECK(query_encoder_->model->dim() == dim(), ErrorCode::kInvalidArgument,
               "the query encoder ", query_encoder_->name, " makes ", query_encoder_->model->dim(),
               "-d vectors, the embedder ", name(), " ", dim(), "-d ones");
  prefixes_.query = embedder_prefixes(query_encoder_->name, query_encoder_->path).query;
}

std::unique_ptr<Embedder> Embedder::load(const std::string& model, const EmbedderOptions& options) {
  LoadedEncoder encoder = load_text_encoder(model, options.precision, options.device);
  std::optional<LoadedEncoder> queries;
  if (!options.query_encoder.empty()) {
    queries = load_text_encoder(options.query_encoder, options.precision);
  }
  auto adapter = load_adapter(options.adapter, encoder);
  auto query_adapter = load_adapter(options.query_adapter, queries ? *queries : encoder);
  return std::make_unique<Embedder>(std::move(encoder), std::move(query_adapter),
                                    std::move(queries), std::move(adapter));
}

std::string Embedder::description() const {
  return adapter_ == nullptr ? name() : name() + " with an adapter";
}

std::vector<float> Embedder::embed_query(const std::string& query) const {
  return embed_queries({query});
}

std::vector<float> Embedder::embed_queries(const std::vector<std::string>& queries) const {
  const std::vector<std::string> texts = with_prefix(prefixes_.query, queries);
  const TextEncoder& model = *query_side().model;
  return query_adapter_ == nullptr ? model.encode(texts)
                                   : model.encode_with(*query_adapter_, texts);
}

std::vector<float> Embedder::embed_passages(const std::vector<std::string>& texts) const {
  if (adapter_ != nullptr) return embed_passages_with(*adapter_, texts);
  return encoder_.model->encode(with_prefix(prefixes_.passage, texts));
}

void Embedder::accumulate_query_gradients(const std::vector<std::string>& queries,
                                          const float* vector_gradients,
                                          LoraGradients& gradients) const {
  QUARRY_DCHECK(query_adapter_ != nullptr);
  query_side().model->accumulate_gradients(*query_adapter_, with_prefix(prefixes_.query, queries),
                                           vector_gradients, gradients);
}

std::vector<float> Embedder::embed_passages_with(const LoraAdapter& adapter,
                                                 const std::vector<std::string>& texts) const {
  return encoder_.model->encode_with(adapter, with_prefix(prefixes_.passage, texts));
}

void Embedder::accumulate_passage_gradients(const LoraAdapter& adapter,
                                            const std::vector<std::string>& texts,
                                            const float* vector_gradients,
                                            LoraGradients& gradients) const {
  encoder_.model->accumulate_gradients(adapter, with_prefix(prefixes_.passage, texts),
                                       vector_gradients, gradients);
}

}  // namespace quarry
