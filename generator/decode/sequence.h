#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/text/tokenizer.h"
#include "generator/decode/constraint/constraint.h"
#include "generator/decode/engine.h"
#include "generator/decode/prefix_cache.h"
#include "generator/decode/prompt_lookup.h"
#include "generator/decode/sampler.h"
#include "generator/decode/stop_matcher.h"
#include "generator/nn/kv_cache.h"
#include "generator/nn/lora.h"

namespace quarry {

// One request inside the engine: waiting, then running, then finished. Engine thread only, but
// cancel() and cancelled() from any.
class Sequence {
 public:
  // `generator` is borrowed and outlives the sequence; request.served is set, and held until
  // finish(). Throws kInvalidArgument for bad stop strings. The caller has checked the rest of the
  // request.
  Sequence(Engine::RequestId id, GenerateRequest request, Engine::OnText on_text,
           const LoadedGenerator& generator);

  Engine::RequestId id() const { return id_; }
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  std::future<GenerateResult> future() { return promise_.get_future(); }

  // Takes the cache in which the sequence runs, once an encoder has read the prompt into it. Throws
  // what the encoder throws.
  void start(std::unique_ptr<KvCache> cache);
  bool started() const { return cache_ != nullptr; }
  int64_t num_prompt_tokens() const { return result_.prompt_tokens; }
  bool prefilling() const { return fed_ < num_first_tokens_; }
  int64_t num_fed() const { return fed_; }  // tokens of the history

  // Takes from `prefixes` what is known of the prompt beyond what is fed; the last token is always
  // computed, for its logits. Returns the number of tokens saved.
  int64_t reuse_prefix(PrefixCache& prefixes);
  // Leaves there what has been computed; of a prompt that is not yet fed, whole pages only.
  void keep_prefix(PrefixCache& prefixes) const;

  // Tokens that may follow the newest one, at most `most`; `others` as PromptLookup has it.
  // REQUIRES: started, not prefilling.
  const PromptLookup::Draft& propose_draft(const std::vector<int32_t>& others, int64_t most);
  // How many of them the next chunk holds; 0 unless set for that chunk.
  void use_draft(int64_t num_tokens) { draft_tokens_ = num_tokens; }

  // What this sequence adds to the next step: its newest token and the draft, or up to
  // `prefill_budget` tokens of its prompt. Pointers hold until the next call on this object.
  SequenceChunk next_chunk(int64_t prefill_budget);
  // The step fed that chunk; `logits` are as asked for. Once the prompt is fed, samples the next
  // token and shows its text, and goes on so while the draft holds what was sampled: the text is
  // the same as without a draft. Returns the number of tokens generated. Throws what the sampler
  // throws.
  int64_t advance(const SequenceChunk& chunk, const float* logits, int64_t vocab_size);
  // Undoes what a failed step left in the cache.
  void rewind();

  bool finished() const { return finished_; }
  FinishReason finish_reason() const { return result_.finish_reason; }
  const std::vector<int32_t>& answer() const { return result_.tokens; }  // until publish()
  // Ends the request where it stands. `error` for kError.
  void finish(FinishReason reason, const std::string& error = "");
  // Lets go of cache and adapter and hands the result to the future. Once, after finish().
  void publish();

 private:
  using Clock = std::chrono::steady_clock;

  // The logits with those of tokens that must not come at -infinity. Valid until the next call.
  const float* constrain(const float* logits, int64_t vocab_size);
  size_t count_allowed(const std::vector<int32_t>& tokens);
  void generate(const float* logits, int64_t vocab_size);
  int32_t sample(const float* logits, int64_t vocab_size);
  // `logits` are those that the token was sampled from.
  void accept(int32_t token, const float* logits, int64_t vocab_size);
  void note_logprobs(int32_t token, const float* logits, int64_t vocab_size);
  void end_text(FinishReason reason);
  void show(const std::string& text);

  const Engine::RequestId id_;
  GenerateRequest request_;
  Engine::OnText on_text_;
  const LoadedGenerator& generator_;
  std::vector<int32_t> history_;  // prompt, or what a decoder with an encoder begins with; answer
  int64_t num_first_tokens_;      // of the history, before the answer
  int64_t max_tokens_;            // of the request, clipped to what the context leaves
  std::unique_ptr<KvCache> cache_;
  AdapterReach reach_;
  int64_t fed_ = 0;  // tokens of the history that the cache holds
  PromptLookup lookup_;
  int64_t draft_tokens_ = 0;
  std::vector<int32_t> step_tokens_;  // newest token and draft, as the model gets them
  std::optional<ConstraintState> constraint_;
  std::vector<float> constrained_logits_;
  Sampler sampler_;
  StopMatcher stop_matcher_;
  IncrementalDecoder decoder_;
  GenerateResult result_;
  Clock::time_point started_;
  Clock::time_point first_token_;
  bool finished_ = false;
  std::atomic<bool> cancelled_{false};
  std::promise<GenerateResult> promise_;
};

}  // namespace quarry
