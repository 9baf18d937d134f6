#include "finetune/recipes/rag_passages.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "data/passage_text.h"
#include "finetune/recipes/rag_refresh.h"
#include "finetune/shared_step.h"

namespace quarry {
namespace {

std::vector<Hit> nearest(const Retriever& retriever, const std::string& question,
                         const float* query_vector, int64_t top_k) {
  SearchOptions options;
  options.mode = SearchMode::kDense;
  options.top_k = top_k;
  return retriever.search(question, query_vector, options);
}

// Scores of hits whose vectors are there.
void score(LatentPassages& found, const float* query_vector, size_t dim) {
  for (size_t z = 0; z < found.hits.size(); ++z) {
    const float* vector = found.vectors.data() + z * dim;
    found.hits[z].score = std::inner_product(vector, vector + dim, query_vector, 0.0);
  }
}

// The `count` best, best first, ties by id.
void keep_nearest(LatentPassages& found, size_t count, size_t dim) {
  std::vector<size_t> places(found.hits.size());
  std::iota(places.begin(), places.end(), size_t{0});
  std::sort(places.begin(), places.end(), [&](size_t a, size_t b) {
    const Hit& one = found.hits[a];
    const Hit& other = found.hits[b];
    return one.score != other.score ? one.score > other.score : one.passage.id < other.passage.id;
  });
  places.resize(std::min(places.size(), count));
  LatentPassages ordered;
  for (const size_t place : places) {
    ordered.hits.push_back(std::move(found.hits[place]));
    const float* vector = found.vectors.data() + place * dim;
    ordered.vectors.insert(ordered.vectors.end(), vector, vector + dim);
  }
  found = std::move(ordered);
}

}  // namespace

std::vector<LatentPassages> IndexedPassages::find(const std::vector<std::string>& questions,
                                                  const std::vector<float>& query_vectors,
                                                  int64_t top_k) const {
  const auto dim = static_cast<size_t>(store_.manifest().dim);
  std::vector<LatentPassages> found(questions.size());
  for (size_t i = 0; i < questions.size(); ++i) {
    const float* query = query_vectors.data() + i * dim;
    found[i].hits = nearest(retriever_, questions[i], query, top_k);
    std::vector<int64_t> ids;
    for (const Hit& hit : found[i].hits) ids.push_back(hit.passage.id);
    found[i].vectors = store_.vectors(ids);
    score(found[i], query, dim);
  }
  return found;
}

std::vector<LatentPassages> LivePassages::find_candidates(const std::vector<std::string>& questions,
                                                          const std::vector<float>& query_vectors,
                                                          int64_t count) const {
  std::vector<LatentPassages> found(questions.size());
  const VectorIndex* vectors = parts_.refresh == nullptr ? nullptr : parts_.refresh->vectors();
  if (vectors == nullptr) {
    const auto dim = static_cast<size_t>(parts_.embedder->dim());
    for (size_t i = 0; i < questions.size(); ++i) {
      found[i].hits =
          nearest(*parts_.retriever, questions[i], query_vectors.data() + i * dim, count);
    }
    return found;
  }
  const auto neighbors =
      vectors->search(query_vectors.data(), static_cast<int64_t>(questions.size()), count);
  for (size_t i = 0; i < questions.size(); ++i) {
    std::vector<int64_t> ids;
    for (const VectorNeighbor& neighbor : neighbors[i]) ids.push_back(neighbor.id);
    for (Passage& passage : parts_.store->passages(ids)) {
      found[i].hits.emplace_back();
      found[i].hits.back().passage = std::move(passage);
    }
  }
  return found;
}

std::vector<LatentPassages> LivePassages::find(const std::vector<std::string>& questions,
                                               const std::vector<float>& query_vectors,
                                               int64_t top_k) const {
  const auto dim = static_cast<size_t>(parts_.embedder->dim());
  std::vector<LatentPassages> found =
      find_candidates(questions, query_vectors, std::max(candidates_, top_k));
  std::map<int64_t, size_t> number_of;  // each passage is embedded once
  std::vector<std::string> texts;
  for (const LatentPassages& passages : found) {
    for (const Hit& hit : passages.hits) {
      if (!number_of.emplace(hit.passage.id, texts.size()).second) continue;
      texts.push_back(embedding_text(hit.passage));
    }
  }
  const std::vector<float> vectors =
      embed_together(*parts_.embedder, *parts_.adapter, texts, parts_.group);
  for (size_t i = 0; i < questions.size(); ++i) {
    for (const Hit& hit : found[i].hits) {
      const float* vector = vectors.data() + number_of.at(hit.passage.id) * dim;
      found[i].vectors.insert(found[i].vectors.end(), vector, vector + dim);
    }
    score(found[i], query_vectors.data() + i * dim, dim);
    keep_nearest(found[i], static_cast<size_t>(top_k), dim);
  }
  return found;
}

std::vector<float> embed_together(const Embedder& embedder, const LoraAdapter& adapter,
                                  const std::vector<std::string>& texts, ProcessGroup* group) {
  if (group == nullptr) return embedder.embed_passages_with(adapter, texts);
  const auto dim = static_cast<size_t>(embedder.dim());
  const auto first = static_cast<size_t>(group->rank());
  const auto stride = static_cast<size_t>(group->world_size());
  std::vector<std::string> own;
  for (size_t i = first; i < texts.size(); i += stride) own.push_back(texts[i]);
  std::vector<float> made;
  if (!own.empty()) made = embedder.embed_passages_with(adapter, own);
  std::vector<float> all(texts.size() * dim, 0.0f);
  for (size_t i = 0; i < own.size(); ++i) {
    std::copy_n(made.data() + i * dim, dim, all.data() + (first + i * stride) * dim);
  }
  group->all_reduce_sum(all.data(), static_cast<int64_t>(all.size()));
  return all;
}

}  // namespace quarry
