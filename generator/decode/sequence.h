#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <string>

#include "data/text/tokenizer.h"
#include "generator/decode/engine.h"
#include "generator/decode/sampler.h"
#include "generator/decode/stop_matcher.h"
#include "generator/nn/kv_cache.h"

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

  // Takes the cache in which the sequence runs.
  void start(std::unique_ptr<KvCache> cache);
  bool started() const { return cache_ != nullptr; }
  bool prefilling() const { return fed_ < num_prompt_tokens(); }

  // What this sequence adds to the next step: its newest token, or up to `prefill_budget` tokens
  // of its prompt. Pointers hold until the next call on this object.
  SequenceChunk next_chunk(int64_t prefill_budget);
  // The step fed `num_tokens` of ours; `logits` belong to the last of them. Samples the next token
  // once the prompt is fed, and shows its text. Returns the number of tokens generated (0 or 1).
  // Throws what the sampler throws.
  int64_t advance(int64_t num_tokens, const float* logits, int64_t vocab_size);
  // Undoes what a failed step left in the cache.
  void rewind();

  bool finished() const { return finished_; }
  FinishReason finish_reason() const { return result_.finish_reason; }
  // Ends the request where it stands. `error` for kError.
  void finish(FinishReason reason, const std::string& error = "");
  // Hands the result to the future. Once, after finish().
  void publish() { promise_.set_value(std::move(result_)); }

 private:
  using Clock = std::chrono::steady_clock;

  int64_t num_prompt_tokens() const { return static_cast<int64_t>(request_.prompt.size()); }
  void accept(int32_t token);
  void end_text(FinishReason reason);
  void show(const std::string& text);

  const Engine::RequestId id_;
  GenerateRequest request_;
  Engine::OnText on_text_;
  const LoadedGenerator& generator_;
  int64_t max_tokens_;  // of the request, clipped to what the context leaves
  std::unique_ptr<KvCache> cache_;
  int64_t fed_ = 0;  // tokens of prompt and answer that the cache holds
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
