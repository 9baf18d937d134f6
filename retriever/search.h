#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/store/passage_store.h"
#include "data/types.h"
#include "retriever/embedder.h"

namespace quarry {

enum class SearchMode { kDense, kLexical, kHybrid };
enum class Fusion {
  kMinMax,  // weighted average of scores, each scaled to 0..1 over its candidates
  kRrf,     // reciprocal rank fusion (Cormack et al. 2009), k = 60
};

// Throws kInvalidArgument naming the value and the choices.
SearchMode parse_search_mode(const std::string& text);
const char* search_mode_name(SearchMode mode);
Fusion parse_fusion(const std::string& text);

struct SearchOptions {
  SearchMode mode = SearchMode::kHybrid;
  int64_t top_k = 10;  // 1..1000
  Fusion fusion = Fusion::kMinMax;
  double dense_weight = 0.5;  // 0..1, min-max fusion only
  int64_t candidates = 100;   // taken from each mode before fusion; raised to top_k
  // How many of the passages found a Reranker reads (reranker.h), 0 to 1000; raised to top_k. 0:
  // the order stays. Retriever::search() leaves that to its caller.
  int64_t rerank_candidates = 0;
  Metadata filter;  // only passages whose document matches every pair
};

// An index opened for reading: the SQLite store and the FAISS index in step with it. search() may
// be called from many threads at once. Sees commits of a writer after refresh().
class Retriever {
 public:
  // `index` is the folder that `quarry index build` made. Throws kNotFound, kCorruptData, and
  // kInvalidArgument naming both when `embedder` is not the one the index was made with.
  // `embedder` is kept and may be null: then only lexical search works.
  static std::unique_ptr<Retriever> open(const std::filesystem::path& index,
                                         std::shared_ptr<const Embedder> embedder);
  virtual ~Retriever() = default;

  virtual std::vector<Hit> search(const std::string& query, const SearchOptions& options) const = 0;
  // The same with the query's vector at hand (dim floats; unused for kLexical, may be null there).
  virtual std::vector<Hit> search(const std::string& query, const float* query_vector,
                                  const SearchOptions& options) const = 0;
  virtual const StoreManifest& manifest() const = 0;
  virtual StoreStats stats() const = 0;
  virtual std::optional<Document> document(const std::string& uri) const = 0;
  virtual void refresh() = 0;
};

}  // namespace quarry
