#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "generator/models/text_encoder.h"

namespace quarry {

// What a model's card asks to put before a text.
struct EmbedderPrefixes {
  std::string query;
  std::string passage;
};

// From config_sentence_transformers.json's "prompts" ("query"; "passage" or "document") in the
// model's folder; else "query: " and "passage: " for the E5 family (Wang et al. 2022,
// arXiv:2212.03533), known by "e5" standing alone in its name; else none.
EmbedderPrefixes embedder_prefixes(const std::string& name, const std::string& path);

struct EmbedderOptions {
  std::filesystem::path adapter;        // PEFT folder, of both sides; empty: none
  std::filesystem::path query_adapter;  // in its place for queries; empty: none
  std::string query_encoder;            // model that queries are embedded with; empty: none
  // Vectors of another precision are near enough to search one index.
  kernels::Precision precision = kernels::Precision::kFast;
  Device device = Device::kCpu;  // of the model that embeds passages, and questions without another
};

// Text -> vector, with the prefixes that the model's card asks for. Both sides may be embedded with
// an adapter. Queries may have another one, tuned to find the passages that lie in an index as they
// were embedded without it, or an encoder of their own (DPR). One thread at a time.
class Embedder {
 public:
  // Adapters are kept and may be null. `query_adapter` was made for the linear_slots() of what
  // embeds queries: `query_encoder`, or `encoder` where that is none; `adapter` for `encoder`'s.
  // Throws kInvalidArgument when the two make vectors of different sizes, naming both.
  explicit Embedder(LoadedEncoder encoder,
                    std::shared_ptr<const LoraAdapter> query_adapter = nullptr,
                    std::optional<LoadedEncoder> query_encoder = std::nullopt,
                    std::shared_ptr<const LoraAdapter> adapter = nullptr);
  // Throws as load_text_encoder(), LoraAdapter::load(), check_adapter_base() and the constructor.
  static std::unique_ptr<Embedder> load(const std::string& model,
                                        const EmbedderOptions& options = {});

  const std::string& name() const { return encoder_.name; }
  const std::string& path() const { return encoder_.path; }  // absolute
  // Of what passages are embedded with: the model, and the adapter of both sides if any. An index
  // is bound to it.
  const std::string& content_hash() const { return content_hash_; }
  // Of the model that embeds passages, alone.
  const std::string& base_hash() const { return encoder_.content_hash; }
  // For people: the name, and whether there is an adapter of both sides.
  std::string description() const;
  int64_t dim() const { return encoder_.model->dim(); }
  // Of passages' vectors.
  bool unit_length() const { return encoder_.model->unit_length(); }
  int64_t max_tokens() const { return encoder_.model->max_tokens(); }
  const Tokenizer& tokenizer() const { return encoder_.model->tokenizer(); }

  std::vector<float> embed_query(const std::string& query) const;                   // [dim]
  std::vector<float> embed_queries(const std::vector<std::string>& queries) const;  // [n, dim]
  std::vector<float> embed_passages(const std::vector<std::string>& texts) const;   // [n, dim]

  const TextEncoder& encoder() const { return *encoder_.model; }
  // As LoadedEncoder's.
  const std::string& why_cpu() const { return encoder_.why_cpu; }
  // Adds the gradient of sum_i <vector_gradients[i], embed_queries(queries)[i]> with respect to the
  // query adapter's matrices. vector_gradients [n, dim]. REQUIRES: there is one.
  void accumulate_query_gradients(const std::vector<std::string>& queries,
                                  const float* vector_gradients, LoraGradients& gradients) const;
  // Passages as they are embedded with `adapter`, made for encoder().linear_slots(), and the same
  // gradient of theirs: where an encoder is trained for passages too.
  std::vector<float> embed_passages_with(const LoraAdapter& adapter,
                                         const std::vector<std::string>& texts) const;
  void accumulate_passage_gradients(const LoraAdapter& adapter,
                                    const std::vector<std::string>& texts,
                                    const float* vector_gradients, LoraGradients& gradients) const;

 private:
  const LoadedEncoder& query_side() const { return query_encoder_ ? *query_encoder_ : encoder_; }

  LoadedEncoder encoder_;
  std::optional<LoadedEncoder> query_encoder_;
  std::shared_ptr<const LoraAdapter> query_adapter_;
  std::shared_ptr<const LoraAdapter> adapter_;
  std::string content_hash_;
  EmbedderPrefixes prefixes_;
};

}  // namespace quarry
