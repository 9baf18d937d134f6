#include "retriever/fusion.h"

#include <algorithm>
#include <limits>

namespace quarry {
namespace {

constexpr double kRrfOffset = 60.0;  // k of Cormack et al. 2009

using Score = std::optional<double> FusionCandidate::*;

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  double scale(const std::optional<double>& score) const {
    if (!score) return 0.0;
    // All alike: found, and nothing says better or worse.
    return high > low ? (*score - low) / (high - low) : 1.0;
  }
};

Range range_of(const std::vector<FusionCandidate>& candidates, Score score) {
  Range range;
  for (const FusionCandidate& candidate : candidates) {
    if (!(candidate.*score)) continue;
    range.low = std::min(range.low, *(candidate.*score));
    range.high = std::max(range.high, *(candidate.*score));
  }
  return range;
}

void add_reciprocal_ranks(std::vector<FusionCandidate>& candidates, Score score) {
  std::vector<FusionCandidate*> ranked;
  for (FusionCandidate& candidate : candidates) {
    if (candidate.*score) ranked.push_back(&candidate);
  }
  std::sort(ranked.begin(), ranked.end(), [score](const auto* a, const auto* b) {
    return a->*score != b->*score ? a->*score > b->*score : a->id < b->id;
  });
  for (size_t i = 0; i < ranked.size(); ++i) {
    ranked[i]->score += 1.0 / (kRrfOffset + static_cast<double>(i + 1));
  }
}

}  // namespace

void fuse(std::vector<FusionCandidate>& candidates, Fusion fusion, double dense_weight) {
  if (fusion == Fusion::kRrf) {
    for (FusionCandidate& candidate : candidates) candidate.score = 0.0;
    add_reciprocal_ranks(candidates, &FusionCandidate::dense);
    add_reciprocal_ranks(candidates, &FusionCandidate::lexical);
  } else {
    const Range dense = range_of(candidates, &FusionCandidate::dense);
    Range lexical = range_of(candidates, &FusionCandidate::lexical);
    lexical.low = 0.0;
    for (FusionCandidate& candidate : candidates) {
      candidate.score = dense_weight * dense.scale(candidate.dense) +
                        (1.0 - dense_weight) * lexical.scale(candidate.lexical);
    }
  }
  std::sort(candidates.begin(), candidates.end(),
            [](const FusionCandidate& a, const FusionCandidate& b) {
              return a.score != b.score ? a.score > b.score : a.id < b.id;
            });
}

}  // namespace quarry
