#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/core/cancel.h"
#include "data/datasets/dataset.h"
#include "data/metrics/bootstrap.h"
#include "retriever/reranker.h"
#include "retriever/search.h"

namespace quarry {

// How a hit is recognised as gold.
enum class GoldMatch {
  kAuto,       // kDocument when the question has gold ids, else kText
  kDocument,   // gold id equals the document's uri, the part after '#', or the file's name or stem
  kPassageId,  // gold id is a passage's number in the store
  kText,       // hit and gold passage contain one another, white space aside
};

// What gold ids may call a document, most specific first: its uri, the part after '#' (the record's
// id), the file's name and its stem.
std::vector<std::string> document_names(const std::string& uri);

// Throws kInvalidArgument naming the value and the choices: auto, document, passage-id, text.
GoldMatch parse_gold_match(const std::string& text);

struct RetrievalEvalOptions {
  // top_k is raised to what the cutoffs need. Beyond rerank_candidates passages keep their order.
  SearchOptions search;
  std::vector<int64_t> cutoffs = {1, 5, 10, 20};
  GoldMatch match = GoldMatch::kAuto;
  BootstrapOptions bootstrap;
};

// One question's outcome. With kDocument several passages of a document count as one hit, at the
// best one's rank.
struct RetrievalRow {
  std::string qid;
  int64_t first_rank = 0;            // of the first gold hit, from 1; 0: none within the depth
  std::vector<std::string> ranking;  // distinct keys found, best first: matched gold ids, else uris
  std::vector<double> recall;        // by cutoff
  std::vector<double> hit;           // by cutoff
  double mrr = 0.0;                  // at 10
  double ndcg = 0.0;                 // at 10
};

struct RetrievalMetric {
  std::string name;  // "R@5", "hit@5", "MRR@10", "nDCG@10"
  Estimate estimate;
};

struct RetrievalReport {
  std::vector<RetrievalMetric> metrics;
  std::vector<RetrievalRow> rows;  // in the questions' order
  double seconds = 0.0;
};

// Asks every question of the retriever on all threads, query vectors made in batches. `embedder`
// may be null for lexical search, `reranker` without rerank_candidates. on_progress(done) is called
// on the calling thread. Throws kInvalidArgument for a question without gold, naming it; what
// search throws; kUnavailable when cancelled.
RetrievalReport evaluate_retrieval(const Retriever& retriever, const Embedder* embedder,
                                   const Reranker* reranker, const std::vector<QaExample>& examples,
                                   const RetrievalEvalOptions& options,
                                   const std::function<void(int64_t done)>& on_progress,
                                   const CancelFlag& cancel);

}  // namespace quarry
