#include "retriever/reranker.h"

#include <algorithm>

#include "data/core/error.h"
#include "data/passage_text.h"
#include "generator/models/adapted_classifier.h"

namespace quarry {
namespace {

constexpr size_t kHitsPerJob = 16;

std::string listed(const std::vector<std::string>& labels) {
  std::string list;
  for (const std::string& label : labels) list += (list.empty() ? "" : ", ") + label;
  return list;
}

}  // namespace

void check_is_reranker(const LoadedHead<SequenceClassifier>& model) {
  const std::vector<std::string>& labels = model.model->labels();
  QUARRY_CHECK(labels.size() == 1, ErrorCode::kInvalidArgument, model.name, ": has ", labels.size(),
               " labels (", listed(labels), "), a reranker is a sequence classifier with one");
}

Reranker::Reranker(LoadedHead<SequenceClassifier> model, std::unique_ptr<const LoraAdapter> adapter)
    : model_(std::move(model)), adapter_(std::move(adapter)) {
  check_is_reranker(model_);
}

std::unique_ptr<Reranker> Reranker::load(const std::string& model,
                                         const std::filesystem::path& adapter) {
  AdaptedClassifier loaded = load_adapted_classifier(model, adapter, kernels::Precision::kFast);
  return std::make_unique<Reranker>(std::move(loaded.base), std::move(loaded.adapter));
}

std::vector<double> Reranker::score(const std::string& query,
                                    const std::vector<std::string>& passages) const {
  std::vector<TextInput> pairs;
  for (const std::string& passage : passages) pairs.push_back({query, passage});
  const std::vector<float> logits =
      model_.model->logits(model_.model->encode(pairs), adapter_.get());
  return {logits.begin(), logits.end()};
}

std::vector<Hit> Reranker::rerank(const std::string& query, std::vector<Hit> hits, int64_t top_k,
                                  const Run& run) const {
  for (size_t begin = 0; begin < hits.size(); begin += kHitsPerJob) {
    const size_t end = std::min(hits.size(), begin + kHitsPerJob);
    std::vector<std::string> passages;
    for (size_t i = begin; i < end; ++i) passages.push_back(embedding_text(hits[i].passage));
    std::vector<double> scores;
    const auto job = [&] { scores = score(query, passages); };
    if (run) {
      run(job);
    } else {
      job();
    }
    for (size_t i = begin; i < end; ++i) {
      hits[i].score = scores[i - begin];
      hits[i].rerank_score = hits[i].score;
    }
  }
  std::stable_sort(hits.begin(), hits.end(),
                   [](const Hit& a, const Hit& b) { return a.score > b.score; });
  if (static_cast<int64_t>(hits.size()) > top_k) hits.resize(static_cast<size_t>(top_k));
  return hits;
}

SearchOptions candidate_search(const SearchOptions& options) {
  SearchOptions search = options;
  search.top_k = std::max(options.top_k, options.rerank_candidates);
  return search;
}

}  // namespace quarry
