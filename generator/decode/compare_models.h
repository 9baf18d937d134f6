#pragma once

#include <cstdint>
#include <string>

#include "generator/models/causal_lm.h"

namespace quarry {

// How near a model is to a reference on a text.
struct ModelComparison {
  int64_t tokens = 0;                 // predictions compared
  double reference_perplexity = 0.0;  // exp of the mean negative log-likelihood of the text
  double perplexity = 0.0;
  double mean_kl = 0.0;         // nats, of the reference's distribution from the other's
  double max_kl = 0.0;          // of any one prediction
  double same_top_token = 0.0;  // share of predictions with the same likeliest token
};

struct CompareOptions {
  int64_t window_tokens = 512;  // the text is cut into windows that do not see each other
  int64_t max_tokens = 8192;    // of the text; the rest is left out
};

// Runs both models over the text. The first token of a window is given, not predicted. Throws
// kInvalidArgument when the text has fewer than two tokens or the vocabularies differ in size.
ModelComparison compare_models(const LoadedGenerator& reference, const LoadedGenerator& other,
                               const std::string& text, const CompareOptions& options = {});

}  // namespace quarry
