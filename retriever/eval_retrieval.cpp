#include "retriever/eval_retrieval.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <unordered_set>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "data/metrics/retrieval_metrics.h"

namespace quarry {
namespace {

constexpr int64_t kRankCut = 10;  // of MRR and nDCG
constexpr int64_t kMaxTopK = 1000;
// Passages fetched for each document wanted, as a document may have several.
constexpr int64_t kPassagesPerDocument = 3;
constexpr size_t kBatch = 250;
// The one relevant key of a question whose gold is a text.
constexpr const char* kGoldTextKey = "gold passage";

std::string without_spaces(const std::string& text) {
  std::string out;
  std::copy_if(text.begin(), text.end(), std::back_inserter(out),
               [](unsigned char c) { return c > ' '; });
  return out;
}

GoldMatch match_of(const QaExample& example, GoldMatch wanted) {
  if (wanted == GoldMatch::kAuto) {
    wanted = example.gold_ids.empty() ? GoldMatch::kText : GoldMatch::kDocument;
  }
  const bool has_gold =
      wanted == GoldMatch::kText ? !example.gold_text.empty() : !example.gold_ids.empty();
  QUARRY_CHECK(has_gold, ErrorCode::kInvalidArgument, "question ", example.qid,
               " names no gold passage to look for, wanted \"gold_ids\" (documents) or \"passage\" "
               "(its text)");
  return wanted;
}

// What the hit counts as: a gold id, or its document's uri (its passage id in kPassageId).
std::string key_of(const Hit& hit, const QaExample& example, GoldMatch match,
                   const std::string& gold_text) {
  const Passage& passage = hit.passage;
  if (match == GoldMatch::kPassageId) return std::to_string(passage.id);
  if (match == GoldMatch::kText) {
    const std::string text = without_spaces(passage.text);
    const bool same = !text.empty() && (text.find(gold_text) != std::string::npos ||
                                        gold_text.find(text) != std::string::npos);
    return same ? kGoldTextKey : concat(passage.document_uri, "@", passage.start);
  }
  for (const std::string& name : document_names(passage.document_uri)) {
    if (example.gold_ids.count(name) > 0) return name;
  }
  return passage.document_uri;
}

RetrievalRow score_question(const QaExample& example, const std::vector<Hit>& hits,
                            const RetrievalEvalOptions& options) {
  const GoldMatch match = match_of(example, options.match);
  const std::string gold_text = without_spaces(example.gold_text);
  RetrievalRow row;
  row.qid = example.qid;
  std::unordered_set<std::string> seen;
  for (const Hit& hit : hits) {
    std::string key = key_of(hit, example, match, gold_text);
    if (seen.insert(key).second) row.ranking.push_back(std::move(key));
  }
  const Relevance relevance = match == GoldMatch::kText
                                  ? Relevance{{kGoldTextKey, 1.0}}
                                  : Relevance(example.gold_ids.begin(), example.gold_ids.end());
  for (const int64_t cutoff : options.cutoffs) {
    row.recall.push_back(recall_at(row.ranking, relevance, cutoff));
    row.hit.push_back(hit_at(row.ranking, relevance, cutoff));
  }
  row.mrr = reciprocal_rank(row.ranking, relevance, kRankCut);
  row.ndcg = ndcg_at(row.ranking, relevance, kRankCut);
  const double first =
      reciprocal_rank(row.ranking, relevance, static_cast<int64_t>(row.ranking.size()));
  row.first_rank = first > 0 ? std::llround(1.0 / first) : 0;
  return row;
}

std::vector<RetrievalMetric> summarize(const std::vector<RetrievalRow>& rows,
                                       const RetrievalEvalOptions& options) {
  std::vector<RetrievalMetric> metrics;
  const auto add = [&](const std::string& name, const auto& value_of) {
    std::vector<double> values;
    for (const RetrievalRow& row : rows) values.push_back(value_of(row));
    metrics.push_back({name, bootstrap_mean(values, options.bootstrap)});
  };
  for (size_t i = 0; i < options.cutoffs.size(); ++i) {
    add(concat("R@", options.cutoffs[i]), [i](const RetrievalRow& row) { return row.recall[i]; });
  }
  for (size_t i = 0; i < options.cutoffs.size(); ++i) {
    add(concat("hit@", options.cutoffs[i]), [i](const RetrievalRow& row) { return row.hit[i]; });
  }
  add(concat("MRR@", kRankCut), [](const RetrievalRow& row) { return row.mrr; });
  add(concat("nDCG@", kRankCut), [](const RetrievalRow& row) { return row.ndcg; });
  return metrics;
}

SearchOptions deep_enough(const RetrievalEvalOptions& options) {
  int64_t depth = kRankCut;
  for (const int64_t cutoff : options.cutoffs) {
    QUARRY_CHECK(cutoff >= 1 && cutoff <= kMaxTopK, ErrorCode::kInvalidArgument, "cutoff ", cutoff,
                 " is out of range: wanted 1 to ", kMaxTopK);
    depth = std::max(depth, cutoff);
  }
  SearchOptions search = options.search;
  search.top_k = std::min(kMaxTopK, std::max(search.top_k, kPassagesPerDocument * depth));
  return search;
}

// The first hits anew, the others behind them as they were.
std::vector<Hit> rerank_first(const Reranker& reranker, const std::string& question,
                              std::vector<Hit> hits, int64_t candidates) {
  const auto count = std::min(hits.size(), static_cast<size_t>(candidates));
  const auto border = hits.begin() + static_cast<int64_t>(count);
  const std::vector<Hit> best =
      reranker.rerank(question, {hits.begin(), border}, candidates, nullptr);
  std::copy(best.begin(), best.end(), hits.begin());
  return hits;
}

}  // namespace

std::vector<std::string> document_names(const std::string& uri) {
  std::vector<std::string> names = {uri};
  const size_t hash = uri.rfind('#');
  if (hash != std::string::npos) names.push_back(uri.substr(hash + 1));
  const std::filesystem::path file = hash == std::string::npos ? uri : uri.substr(0, hash);
  names.push_back(file.filename().string());
  names.push_back(file.stem().string());
  return names;
}

GoldMatch parse_gold_match(const std::string& text) {
  if (text == "auto") return GoldMatch::kAuto;
  if (text == "document") return GoldMatch::kDocument;
  if (text == "passage-id") return GoldMatch::kPassageId;
  if (text == "text") return GoldMatch::kText;
  throw_error(ErrorCode::kInvalidArgument, "gold match \"", text,
              "\" is unknown: use auto, document, passage-id or text");
}

RetrievalReport evaluate_retrieval(const Retriever& retriever, const Embedder* embedder,
                                   const Reranker* reranker, const std::vector<QaExample>& examples,
                                   const RetrievalEvalOptions& options,
                                   const std::function<void(int64_t done)>& on_progress,
                                   const CancelFlag& cancel) {
  const auto start = std::chrono::steady_clock::now();
  const SearchOptions search = deep_enough(options);
  const bool dense = search.mode != SearchMode::kLexical;
  QUARRY_CHECK(!dense || embedder != nullptr, ErrorCode::kInvalidArgument,
               "evaluating dense or hybrid search needs an embedder");
  QUARRY_CHECK(search.rerank_candidates == 0 || reranker != nullptr, ErrorCode::kInvalidArgument,
               "rerank_candidates is ", search.rerank_candidates, ", but there is no reranker");
  for (const QaExample& example : examples) match_of(example, options.match);
  RetrievalReport report;
  report.rows.resize(examples.size());
  for (size_t begin = 0; begin < examples.size(); begin += kBatch) {
    cancel.check("evaluation");
    const size_t end = std::min(examples.size(), begin + kBatch);
    std::vector<float> vectors;
    if (dense) {
      std::vector<std::string> questions;
      for (size_t i = begin; i < end; ++i) questions.push_back(examples[i].question);
      vectors = embedder->embed_queries(questions);
    }
    std::vector<std::vector<Hit>> found(end - begin);
    parallel_for(static_cast<int64_t>(end - begin), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const float* vector = dense ? vectors.data() + i * embedder->dim() : nullptr;
        found[static_cast<size_t>(i)] =
            retriever.search(examples[begin + static_cast<size_t>(i)].question, vector, search);
      }
    });
    for (size_t at = begin; at < end; ++at) {
      std::vector<Hit> hits = std::move(found[at - begin]);
      if (search.rerank_candidates > 0) {
        cancel.check("evaluation");
        hits = rerank_first(*reranker, examples[at].question, std::move(hits),
                            search.rerank_candidates);
      }
      report.rows[at] = score_question(examples[at], hits, options);
    }
    if (on_progress) on_progress(static_cast<int64_t>(end));
  }
  report.metrics = summarize(report.rows, options);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace quarry
