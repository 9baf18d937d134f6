#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "generator/decode/engine.h"
#include "generator/models/causal_lm.h"

namespace quarry {

// Greedy decoding of p(y|x) over k passages z, each in a prompt of its own (Lewis et al. 2020,
// arXiv:2005.11401, section 2.5).
enum class Marginal {
  // sum_z p(z|x) prod_i p(y_i|x,z,y_<i). Each passage writes its own answer; each different one is
  // scored with all passages and the likeliest wins. ("Fast decoding" leaves out the scores with
  // passages that did not write it; here they cost a row for each token.)
  kSequence,
  // prod_i sum_z p(z|x) p(y_i|x,z,y_<i). One answer whose tokens are chosen from the mixed
  // distribution, with a cache for each passage.
  kToken,
};

struct MarginalRequest {
  std::vector<std::vector<int32_t>> prompts;  // [k], k >= 1, at least one token each
  std::vector<double> log_prior;              // [k]: log p(z|x)
  // p(y|x,z) ends with one of these, whichever; they are not part of the tokens.
  std::vector<int32_t> stop_tokens;
  GenerateRequest::FirstTokenBias first_token_bias;  // part of every p(y_1|x,z)
  // The answer which says that a passage holds none, without the stop; empty: there is none. It is
  // no evidence against what another passage holds, so it is the result only where every passage
  // gives it, by greedy decoding. Else kSequence leaves it out of the answers, and kToken mixes
  // p(y|x,z) and p(z|x) given that z does not give it.
  std::vector<int32_t> refusal;
  int64_t max_tokens = 64;
  const LoraAdapter* adapter = nullptr;  // borrowed; null: the base model
  int64_t prefill_chunk_tokens = 256;    // of one call of the model
};

struct MarginalResult {
  std::vector<int32_t> tokens;
  FinishReason finish_reason = FinishReason::kStop;  // or kLength, kCancelled
  // log p(y|x) of the tokens and, if any, the stop; of kToken given that there is no refusal,
  // unless it is one.
  double log_likelihood = 0.0;
  std::vector<double> posterior;  // [k]: p(z|x,y); of kToken the mean over the tokens
  // kSequence: what each passage alone answers, [k] lists of tokens.
  std::vector<std::vector<int32_t>> passage_tokens;
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
};

// Runs a piece of work of the model's where that may run, and returns when it is done.
using RunOnModel = std::function<void(const std::function<void()>& job)>;

// Every call of the model is one job, so that others may have their turn in between. Stops early
// when `keep_going`, asked between jobs, says false; it may be empty. Throws kInvalidArgument: no
// prompt, an empty one, as many priors as prompts missing; and what the model throws.
MarginalResult decode_marginal(const CausalLm& model, Marginal marginal,
                               const MarginalRequest& request, const RunOnModel& run,
                               const std::function<bool()>& keep_going);

}  // namespace quarry
