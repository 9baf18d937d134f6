#include "retriever/search.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <numeric>
#include <shared_mutex>
#include <unordered_map>

#include "data/core/error.h"
#include "retriever/fusion.h"
#include "retriever/store_pool.h"
#include "retriever/vector_sync.h"

namespace quarry {
namespace {

constexpr int64_t kMaxTopK = 1000;
// BM25 scores read, of which the first `candidates` are candidates and the others score what only
// the dense side found. SQLite has scored every match by then, so more rows cost little.
constexpr int64_t kLexicalDepth = 1000;

void check_embedder(const std::filesystem::path& index, const StoreManifest& manifest,
                    const Embedder& embedder) {
  QUARRY_CHECK(manifest.embedder_hash == embedder.content_hash(), ErrorCode::kInvalidArgument,
               index.string(), ": ",
               other_embedder_text(manifest, embedder.description(), embedder.content_hash()));
  QUARRY_CHECK(manifest.dim == embedder.dim(), ErrorCode::kCorruptData, index.string(), ": holds ",
               manifest.dim, "-d vectors, ", embedder.name(), " makes ", embedder.dim());
}

void check_options(const SearchOptions& options) {
  QUARRY_CHECK(options.top_k >= 1 && options.top_k <= kMaxTopK, ErrorCode::kInvalidArgument,
               "top_k is ", options.top_k, ", wanted 1 to ", kMaxTopK);
  QUARRY_CHECK(options.dense_weight >= 0.0 && options.dense_weight <= 1.0,
               ErrorCode::kInvalidArgument, "dense_weight is ", options.dense_weight,
               ", wanted 0 to 1");
  QUARRY_CHECK(options.candidates >= 1 && options.candidates <= 100 * kMaxTopK,
               ErrorCode::kInvalidArgument, "candidates is ", options.candidates, ", wanted 1 to ",
               100 * kMaxTopK);
  QUARRY_CHECK(options.rerank_candidates >= 0 && options.rerank_candidates <= kMaxTopK,
               ErrorCode::kInvalidArgument, "rerank_candidates is ", options.rerank_candidates,
               ", wanted 0 to ", kMaxTopK);
}

// What one search works with.
struct SearchInputs {
  const PassageStore& store;
  const VectorIndex* vectors;  // null without an embedder
  const std::string& query;
  const float* query_vector;
  const SearchOptions& options;
  bool filtered;
  std::vector<int64_t> eligible;  // ascending; only when filtered

  int64_t depth() const { return std::max(options.candidates, options.top_k); }
};

std::vector<PassageStore::Scored> lexical_search(const SearchInputs& in, int64_t wanted) {
  std::vector<PassageStore::Scored> found = in.store.search_text(in.query, wanted);
  if (!in.filtered) return found;
  const auto keep_eligible = [&in](std::vector<PassageStore::Scored>& scored) {
    scored.erase(std::remove_if(scored.begin(), scored.end(),
                                [&in](const PassageStore::Scored& hit) {
                                  return !std::binary_search(in.eligible.begin(), in.eligible.end(),
                                                             hit.passage_id);
                                }),
                 scored.end());
  };
  const bool more = static_cast<int64_t>(found.size()) == wanted;
  keep_eligible(found);
  const int64_t possible = std::min(wanted, static_cast<int64_t>(in.eligible.size()));
  if (!more || static_cast<int64_t>(found.size()) >= possible) return found;
  // The filter is exact: look at every match rather than miss eligible ones far down.
  found = in.store.search_text(in.query, std::numeric_limits<int64_t>::max());
  keep_eligible(found);
  if (static_cast<int64_t>(found.size()) > wanted) found.resize(static_cast<size_t>(wanted));
  return found;
}

std::vector<VectorNeighbor> dense_search(const SearchInputs& in) {
  if (in.filtered) return in.vectors->search_among(in.query_vector, in.eligible, in.depth());
  return std::move(in.vectors->search(in.query_vector, 1, in.depth()).front());
}

// A passage committed after the last refresh is in the store but not yet in the index.
double dense_score(const SearchInputs& in, int64_t id) {
  if (in.vectors->contains(id)) return in.vectors->score(in.query_vector, id);
  const std::vector<float> vector = in.store.vectors({id});
  return std::inner_product(vector.begin(), vector.end(), in.query_vector, 0.0);
}

std::vector<FusionCandidate> dense_candidates(const SearchInputs& in) {
  std::vector<FusionCandidate> candidates;
  for (const VectorNeighbor& neighbor : dense_search(in)) {
    candidates.push_back({neighbor.id, neighbor.score, std::nullopt, neighbor.score});
  }
  return candidates;
}

std::vector<FusionCandidate> lexical_candidates(const SearchInputs& in) {
  std::vector<FusionCandidate> candidates;
  for (const PassageStore::Scored& hit : lexical_search(in, in.depth())) {
    candidates.push_back({hit.passage_id, std::nullopt, hit.score, hit.score});
  }
  return candidates;
}

// Both modes' candidates, each scored by both.
std::vector<FusionCandidate> hybrid_candidates(const SearchInputs& in) {
  const std::vector<PassageStore::Scored> lexical =
      lexical_search(in, std::max(in.depth(), kLexicalDepth));
  std::vector<FusionCandidate> candidates = dense_candidates(in);
  std::unordered_map<int64_t, size_t> slot_of;
  for (size_t i = 0; i < candidates.size(); ++i) slot_of.emplace(candidates[i].id, i);
  for (size_t rank = 0; rank < lexical.size(); ++rank) {
    const auto found = slot_of.find(lexical[rank].passage_id);
    if (found != slot_of.end()) {
      candidates[found->second].lexical = lexical[rank].score;
    } else if (static_cast<int64_t>(rank) < in.depth()) {
      const int64_t id = lexical[rank].passage_id;
      candidates.push_back({id, dense_score(in, id), lexical[rank].score, 0.0});
    }
  }
  fuse(candidates, in.options.fusion, in.options.dense_weight);
  return candidates;
}

// The first top_k candidates that are still in the store.
std::vector<Hit> load_hits(const SearchInputs& in, const std::vector<FusionCandidate>& candidates) {
  std::vector<Hit> hits;
  const auto top_k = static_cast<size_t>(in.options.top_k);
  for (size_t begin = 0; begin < candidates.size() && hits.size() < top_k;) {
    const size_t end = std::min(candidates.size(), begin + (top_k - hits.size()));
    std::vector<int64_t> ids;
    for (size_t i = begin; i < end; ++i) ids.push_back(candidates[i].id);
    std::vector<Passage> passages = in.store.passages(ids);
    size_t next = 0;
    for (size_t i = begin; i < end && next < passages.size(); ++i) {
      if (passages[next].id != candidates[i].id) continue;
      Hit hit;
      hit.passage = std::move(passages[next++]);
      hit.score = candidates[i].score;
      hit.dense_score = candidates[i].dense;
      hit.lexical_score = candidates[i].lexical;
      hits.push_back(std::move(hit));
    }
    begin = end;
  }
  return hits;
}

class IndexRetriever : public Retriever {
 public:
  IndexRetriever(const std::filesystem::path& index, std::shared_ptr<const Embedder> embedder)
      : stores_(index / kStoreFileName), embedder_(std::move(embedder)) {
    const StorePool::Lease store = stores_.lease();
    manifest_ = store->manifest();
    if (embedder_ == nullptr) return;
    check_embedder(index, manifest_, *embedder_);
    vectors_ = open_vectors(index, *store);
  }

  std::vector<Hit> search(const std::string& query, const SearchOptions& options) const override {
    if (options.mode == SearchMode::kLexical) return search(query, nullptr, options);
    check_options(options);
    check_dense(options);
    std::vector<float> vector;
    {
      const std::lock_guard<std::mutex> lock(embedder_mutex_);
      vector = embedder_->embed_query(query);
    }
    return search(query, vector.data(), options);
  }

  std::vector<Hit> search(const std::string& query, const float* query_vector,
                          const SearchOptions& options) const override {
    check_options(options);
    check_dense(options);
    QUARRY_CHECK(options.mode == SearchMode::kLexical || query_vector != nullptr,
                 ErrorCode::kInvalidArgument, "dense search without a query vector");
    const StorePool::Lease store = stores_.lease();
    const std::shared_lock<std::shared_mutex> lock = lock_to_read();
    SearchInputs in{*store,  vectors_.index.get(),    query, query_vector,
                    options, !options.filter.empty(), {}};
    if (in.filtered) {
      in.eligible = store->passages_where(options.filter);
      if (in.eligible.empty()) return {};
      std::sort(in.eligible.begin(), in.eligible.end());
    }
    switch (options.mode) {
      case SearchMode::kDense:
        return load_hits(in, dense_candidates(in));
      case SearchMode::kLexical:
        return load_hits(in, lexical_candidates(in));
      case SearchMode::kHybrid:
        return load_hits(in, hybrid_candidates(in));
    }
    throw_error(ErrorCode::kInternal, "unknown search mode");
  }

  const StoreManifest& manifest() const override { return manifest_; }
  StoreStats stats() const override { return stores_.lease()->stats(); }
  std::optional<Document> document(const std::string& uri) const override {
    return stores_.lease()->document(uri);
  }

  void refresh() override {
    const StorePool::Lease store = stores_.lease();
    if (embedder_ == nullptr) return;
    {
      const std::shared_lock<std::shared_mutex> lock = lock_to_read();
      if (store->stats().generation == vectors_.info.generation) return;
    }
    const std::lock_guard<std::mutex> turn(turn_mutex_);
    const std::unique_lock<std::shared_mutex> lock(vectors_mutex_);
    refresh_vectors(*store, vectors_);
  }

 private:
  // Waits behind a refresh that waits: shared_mutex alone lets searches that overlap keep it out.
  std::shared_lock<std::shared_mutex> lock_to_read() const {
    const std::lock_guard<std::mutex> turn(turn_mutex_);
    return std::shared_lock<std::shared_mutex>(vectors_mutex_);
  }

  void check_dense(const SearchOptions& options) const {
    QUARRY_CHECK(options.mode == SearchMode::kLexical || embedder_ != nullptr,
                 ErrorCode::kInvalidArgument,
                 "dense and hybrid search need an embedder: this index was opened without one");
  }

  mutable StorePool stores_;
  StoreManifest manifest_;
  std::shared_ptr<const Embedder> embedder_;
  mutable std::mutex embedder_mutex_;  // an Embedder is for one thread at a time
  mutable std::mutex turn_mutex_;      // held to get vectors_mutex_
  mutable std::shared_mutex vectors_mutex_;
  SyncedVectors vectors_;  // guarded by vectors_mutex_; empty without an embedder
};

}  // namespace

SearchMode parse_search_mode(const std::string& text) {
  if (text == "dense") return SearchMode::kDense;
  if (text == "lexical") return SearchMode::kLexical;
  if (text == "hybrid") return SearchMode::kHybrid;
  throw_error(ErrorCode::kInvalidArgument, "search mode \"", text,
              "\" is unknown: use dense, lexical or hybrid");
}

const char* search_mode_name(SearchMode mode) {
  if (mode == SearchMode::kDense) return "dense";
  return mode == SearchMode::kLexical ? "lexical" : "hybrid";
}

Fusion parse_fusion(const std::string& text) {
  if (text == "min-max") return Fusion::kMinMax;
  if (text == "rrf") return Fusion::kRrf;
  throw_error(ErrorCode::kInvalidArgument, "fusion \"", text, "\" is unknown: use min-max or rrf");
}

std::unique_ptr<Retriever> Retriever::open(const std::filesystem::path& index,
                                           std::shared_ptr<const Embedder> embedder) {
  return std::make_unique<IndexRetriever>(index, std::move(embedder));
}

}  // namespace quarry
