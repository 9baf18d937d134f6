#include "data/metrics/retrieval_metrics.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace quarry {
namespace {

double gain_of(const std::string& document, const Relevance& relevance) {
  const auto found = relevance.find(document);
  return found == relevance.end() ? 0.0 : std::max(found->second, 0.0);
}

size_t cut(const std::vector<std::string>& ranking, int64_t k) {
  return std::min(ranking.size(), static_cast<size_t>(std::max<int64_t>(k, 0)));
}

// Rank from 1 of the first relevant document within the first k, or 0.
size_t first_relevant(const std::vector<std::string>& ranking, const Relevance& relevance,
                      int64_t k) {
  for (size_t i = 0; i < cut(ranking, k); ++i) {
    if (gain_of(ranking[i], relevance) > 0) return i + 1;
  }
  return 0;
}

}  // namespace

double recall_at(const std::vector<std::string>& ranking, const Relevance& relevance, int64_t k) {
  const auto relevant = std::count_if(relevance.begin(), relevance.end(),
                                      [](const auto& entry) { return entry.second > 0; });
  if (relevant == 0) return 0.0;
  int64_t found = 0;
  for (size_t i = 0; i < cut(ranking, k); ++i) found += gain_of(ranking[i], relevance) > 0 ? 1 : 0;
  return static_cast<double>(found) / static_cast<double>(relevant);
}

double hit_at(const std::vector<std::string>& ranking, const Relevance& relevance, int64_t k) {
  return first_relevant(ranking, relevance, k) > 0 ? 1.0 : 0.0;
}

double reciprocal_rank(const std::vector<std::string>& ranking, const Relevance& relevance,
                       int64_t k) {
  const size_t rank = first_relevant(ranking, relevance, k);
  return rank == 0 ? 0.0 : 1.0 / static_cast<double>(rank);
}

double ndcg_at(const std::vector<std::string>& ranking, const Relevance& relevance, int64_t k) {
  const auto discounted = [](double gain, size_t index) {
    return gain / std::log2(static_cast<double>(index) + 2.0);
  };
  std::vector<double> ideal;
  for (const auto& entry : relevance) {
    if (entry.second > 0) ideal.push_back(entry.second);
  }
  std::sort(ideal.begin(), ideal.end(), std::greater<>());
  double best = 0.0;
  const size_t depth = static_cast<size_t>(std::max<int64_t>(k, 0));
  for (size_t i = 0; i < std::min(ideal.size(), depth); ++i) best += discounted(ideal[i], i);
  if (best == 0.0) return 0.0;
  double sum = 0.0;
  for (size_t i = 0; i < cut(ranking, k); ++i) sum += discounted(gain_of(ranking[i], relevance), i);
  return sum / best;
}

}  // namespace quarry
