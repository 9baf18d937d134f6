#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/types.h"
#include "generator/models/text_heads.h"
#include "retriever/search.h"

namespace quarry {

// Orders the passages of a search by what a cross-encoder, which reads question and passage
// together, makes of each (Nogueira & Cho 2019, arXiv:1901.04085): sequence classification with one
// label. Immutable; score() by one thread at a time.
class Reranker {
 public:
  // `adapter` was made for the slots of the model; may be null. Throws as check_is_reranker().
  explicit Reranker(LoadedHead<SequenceClassifier> model,
                    std::unique_ptr<const LoraAdapter> adapter = nullptr);
  // `adapter`: a PEFT folder; empty: none. Throws as load_adapted_classifier(), and as the
  // constructor.
  static std::unique_ptr<Reranker> load(const std::string& model,
                                        const std::filesystem::path& adapter = {});

  const std::string& name() const { return model_.name; }
  // The label's logit of each pair of `query` and passage; higher is better.
  std::vector<double> score(const std::string& query,
                            const std::vector<std::string>& passages) const;

  // Calls job() at once or later, on whatever thread, and returns when it is done.
  using Run = std::function<void(const std::function<void()>& job)>;
  // The best `top_k` hits, best first, those of one score in the order they came; Hit::score and
  // rerank_score are the logit. A passage is read as the embedder reads it (embedding_text).
  // `run` gets score() of a few hits each time, so that others who wait for the same thread have
  // their turn; empty: this thread runs all.
  std::vector<Hit> rerank(const std::string& query, std::vector<Hit> hits, int64_t top_k,
                          const Run& run) const;

 private:
  LoadedHead<SequenceClassifier> model_;
  std::unique_ptr<const LoraAdapter> adapter_;
};

// Throws kInvalidArgument when the model has not just one label, naming those it has.
void check_is_reranker(const LoadedHead<SequenceClassifier>& model);

// The search for what a reranker reads: top_k raised to rerank_candidates.
SearchOptions candidate_search(const SearchOptions& options);

}  // namespace quarry
