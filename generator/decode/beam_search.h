#pragma once

#include <cstdint>

#include "generator/decode/engine.h"

namespace quarry {

struct BeamSearchOptions {
  int64_t num_beams = 1;  // 1: greedy
  // A finished text scores (sum of log-probabilities) / (number of tokens ^ length_penalty): above
  // 0 longer texts gain, below 0 shorter ones.
  double length_penalty = 1.0;
};
constexpr int64_t kMostBeams = 32;

// Beam search (Graves 2012, arXiv:1211.3711) as transformers' generate(num_beams, length_penalty)
// does it, early_stopping False: the best finished text, whose end token counts in its score. Of
// the request it takes prompt, adapter, max_tokens, stop, first_token_bias and constraint, which
// rules tokens out and leaves the others' log-probabilities as they are (transformers'
// prefix_allowed_tokens_fn). Nothing else runs on
// the engine meanwhile. `on_text`, which may be empty, is called with "" before each step, ends the
// search by returning false (kCancelled), and gets the text at the end. Throws kInvalidArgument for
// options out of range, a temperature other than 0, wanted logprobs, a prompt that leaves no room
// or a constraint that no token fulfils; kNotFound (adapter), kUnavailable, and what the model
// throws.
GenerateResult beam_search(Engine& engine, GenerateRequest request,
                           const BeamSearchOptions& options, const Engine::OnText& on_text);

}  // namespace quarry
