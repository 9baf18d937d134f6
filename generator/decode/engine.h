#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "generator/decode/adapter_set.h"
#include "generator/decode/logprobs.h"
#include "generator/models/causal_lm.h"
#include "generator/nn/lora_settings.h"

namespace quarry {

class Constraint;   // generator/decode/constraint/constraint.h
class Constraints;  // and constraints.h

// How the next token is chosen. Filters apply in this order: repetition penalty, temperature,
// top_k, top_p, min_p. temperature == 0 is greedy (argmax after the penalty).
struct SamplingOptions {
  double temperature = 0.0;
  int64_t top_k = 0;                // 0: off
  double top_p = 1.0;               // 1: off   (Holtzman et al. 2020, arXiv:1904.09751)
  double min_p = 0.0;               // 0: off   (Nguyen et al. 2024, arXiv:2407.01082)
  double repetition_penalty = 1.0;  // 1: off   (Keskar et al. 2019, arXiv:1909.05858)
  uint64_t seed = 0;                // the same seed and request give the same text
};

// Throws kInvalidArgument naming the field, the value and the range.
void validate(const SamplingOptions& options);

enum class FinishReason {
  kStop,       // end-of-turn token or stop string
  kLength,     // max_tokens or the model's context
  kCancelled,  // cancel(), or the engine shut down
  kError,
};
const char* finish_reason_name(FinishReason reason);

struct GenerateRequest {
  std::vector<int32_t> prompt;  // at least one token
  int64_t max_tokens = 256;
  std::vector<std::string> stop;  // text is cut before the first of these
  SamplingOptions sampling;
  // Nats added to the logit of a token where the text begins; -infinity: it does not begin so.
  struct FirstTokenBias {
    int32_t token = -1;  // -1: none
    float bias = 0.0f;
  } first_token_bias;
  // From Engine::constraints(): the only texts that may come; null: any. Other tokens are taken out
  // before everything else, log-probabilities included. The text ends once nothing may follow
  // (kStop); cut short (kLength, a stop string) it is the beginning of such a text.
  std::shared_ptr<Constraint> constraint;
  // With the text come the log-probability of each of its tokens and that many of the likeliest
  // there, at most kMostTopLogprobs; -1: none.
  int64_t top_logprobs = -1;
  // Called as OnText is, for each token before its text. May be empty.
  std::function<void(const TokenLogprobs&)> on_logprobs;
  std::string adapter;  // name in Engine::adapters(); empty: the base model
  // From adapters().acquire(), for a caller that made the prompt for it; null: submit() acquires
  // the one of that name.
  std::shared_ptr<const ServedAdapter> served;
};

struct GenerateResult {
  std::string text;
  std::vector<int32_t> tokens;          // generated ids, the end-of-turn token not included
  std::vector<TokenLogprobs> logprobs;  // of `tokens`, when they were asked for
  FinishReason finish_reason = FinishReason::kStop;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, which were not computed again
  int64_t completion_tokens = 0;
  std::string error;  // kError only
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
};

struct EngineOptions {
  int64_t max_batch_sequences = 32;  // more wait in the queue
  int64_t max_queue = 256;           // more are refused with kUnavailable
  // A long prompt is fed in pieces between decode steps. 0: 256, or 2,048 on a GPU.
  int64_t prefill_chunk_tokens = 0;
  int64_t max_lora_rank = kMaxLoraRank;  // adapters of a larger rank are refused
  // Keys and values kept of what was computed, for prompts that begin alike; 0: none. A text does
  // not depend on it, nor on the next (on a GPU but for near ties, see cuda_decoder.h).
  int64_t prefix_cache_bytes = int64_t{512} << 20;
  // Tokens that the text so far suggests are checked several in one step where that is faster. A
  // text does not depend on it.
  bool prompt_lookup = true;
};

struct EngineStats {
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t requests_total = 0;
  int64_t prompt_tokens_total = 0;
  int64_t cached_tokens_total = 0;  // of prompt_tokens_total
  int64_t completion_tokens_total = 0;
  int64_t drafts_total = 0;                 // steps of a sequence that checked a draft
  int64_t draft_tokens_total = 0;           // guessed by prompt lookup and checked
  int64_t accepted_draft_tokens_total = 0;  // of those, that came true
  int64_t cancelled_total = 0;
  int64_t prefix_cache_bytes = 0;
};

// Owns the one thread that runs the model and steps all running sequences together (continuous
// batching, Yu et al. 2022, Orca). All methods are safe to call from any thread.
class Engine {
 public:
  using RequestId = uint64_t;
  // Called on the engine thread: `text` is whole UTF-8 and may be empty; must be quick and must not
  // throw or call the engine. Returning false cancels the request.
  using OnText = std::function<bool(const std::string& text)>;

  // `generator` is kept. It may be null: then only run() works (retrieval-only serving).
  Engine(std::shared_ptr<const LoadedGenerator> generator, const EngineOptions& options);
  ~Engine();  // shuts down
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Throws kInvalidArgument (over-long prompt, naming both lengths; bad sampling; a constraint for
  // another vocabulary), kNotFound (adapter), kUnavailable (queue full or shutting down). The
  // future never throws: look at finish_reason.
  struct Submitted {
    RequestId id;
    std::future<GenerateResult> result;
  };
  Submitted submit(GenerateRequest request, OnText on_text);
  void cancel(RequestId id);

  // Runs `job` on the engine thread between steps (embedding of queries: one user of the cores at a
  // time) and returns when it is done. Exceptions pass through.
  void run(const std::function<void()>& job);

  // Adapters that requests can name, and what base requests run with.
  AdapterSet& adapters();
  const AdapterSet& adapters() const;

  // What requests can be constrained to.
  Constraints& constraints();

  // Takes over the prefixes that save_prefixes() left at `path`, for the base model and the
  // adapters that are loaded now. What another model or another setting computed, or what is
  // damaged, is left alone with a warning that names what was found and what was wanted; a file
  // that is not there is no warning. Before the first request.
  struct LoadedPrefixes {
    int64_t bytes = 0;    // of keys and values
    std::string warning;  // empty: none
  };
  LoadedPrefixes load_prefixes(const std::filesystem::path& path);
  // Keeps the prefix cache for a later process: written beside `path`, then renamed, readable by
  // its owner only since it tells what was asked. Returns the bytes of keys and values. Throws
  // kUnavailable.
  int64_t save_prefixes(const std::filesystem::path& path);

  // No new requests from now on; waits up to `timeout_seconds` for the running ones, then cancels
  // the rest. Idempotent.
  void drain(double timeout_seconds);

  EngineStats stats() const;
  const LoadedGenerator* generator() const;
  const EngineOptions& options() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quarry
