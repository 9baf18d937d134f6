#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "retriever/search.h"

namespace quarry {

// A passage that at least one mode found.
struct FusionCandidate {
  int64_t id = 0;
  std::optional<double> dense;    // inner product; empty: not known
  std::optional<double> lexical;  // BM25, > 0; empty: no word of the query in it
  double score = 0.0;             // set by fuse()
};

// Gives each candidate its fused score and sorts best first, ties by id. Pure functions.
//
// kMinMax: dense_weight * dense + (1 - dense_weight) * lexical, each scaled over the candidates:
// dense from its least (0) to its greatest (1); BM25, whose 0 means "no word in common", from 0 to
// its greatest. A candidate without a score of a mode gets 0 for it.
// kRrf: sum over the modes of 1 / (60 + rank), rank from 1 among the candidates that have a score.
void fuse(std::vector<FusionCandidate>& candidates, Fusion fusion, double dense_weight);

}  // namespace quarry
