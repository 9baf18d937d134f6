#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace quarry {

// Graded relevance of the documents that count for one question; a gain <= 0 is not relevant.
using Relevance = std::unordered_map<std::string, double>;

// Measures of one ranking, best first, without repeated documents. All are 0 for a question that
// has no relevant document. Pure functions.

// Share of the relevant documents that are among the first k (trec_eval's recall_k).
double recall_at(const std::vector<std::string>& ranking, const Relevance& relevance, int64_t k);

// 1 when any relevant document is among the first k, else 0 (trec_eval's success_k).
double hit_at(const std::vector<std::string>& ranking, const Relevance& relevance, int64_t k);

// 1 / rank of the first relevant document within the first k, else 0.
double reciprocal_rank(const std::vector<std::string>& ranking, const Relevance& relevance,
                       int64_t k);

// Discounted cumulative gain of the first k over that of the ideal ranking, the gain taken as it is
// and discounted by log2(rank + 1) (Jarvelin and Kekalainen 2002; trec_eval's ndcg_cut_k).
double ndcg_at(const std::vector<std::string>& ranking, const Relevance& relevance, int64_t k);

}  // namespace quarry
