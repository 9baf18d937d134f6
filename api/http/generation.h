#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "api/http/context.h"
#include "api/http/fields.h"
#include "generator/decode/engine.h"

namespace quarry::http {

// Fields that chat and completions share: temperature, top_p, top_k, min_p, repetition_penalty,
// seed, max_tokens, stop; refuses those that we cannot honour. Throws 400.
struct GenerationParameters {
  SamplingOptions sampling;
  int64_t max_tokens = 0;
  std::vector<std::string> stop;
  bool stream = false;
  bool include_usage = false;
};

// Text and, when they were asked for, what the model held of its tokens.
struct TextPiece {
  std::string text;
  std::vector<TokenLogprobs> logprobs;
};
GenerationParameters read_generation_parameters(const Fields& fields, const AskOptions& defaults,
                                                int64_t default_max_tokens);

// Throws context_length_exceeded when `tokens` of `param` leave no room for an answer.
void check_context_length(const ServerContext& context, const char* param, int64_t tokens);

// One request in the engine, as its connection's thread sees it. The destructor cancels what has
// not ended. One thread.
class Generation {
 public:
  // Submits. Throws as Engine::submit does, with 429 or 503 when the engine takes no more.
  Generation(ServerContext& context, Exchange& exchange, GenerateRequest request);
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  // Waits for the end and returns it. `on_text` gets each piece of text, which is not
  // empty but for logprobs that come after the last text; `on_idle` is called every
  // few seconds without text; both on this thread, both may be empty and may throw.
  // Throws ClientGone soon after the client left (the request is cancelled), 503 when the server
  // shuts down first, 500 when the model fails.
  GenerateResult wait(const std::function<void(const TextPiece&)>& on_text,
                      const std::function<void()>& on_idle);

 private:
  // Between the engine thread, which appends, and the connection's thread, which takes.
  struct TextQueue {
    std::mutex mutex;
    std::condition_variable changed;
    TextPiece piece;
    bool started = false;
  };

  TextPiece take_piece(std::chrono::milliseconds patience);
  GenerateResult finish();

  ServerContext& context_;
  Exchange& exchange_;
  std::shared_ptr<TextQueue> queue_;  // the engine's callback may outlive this object
  Engine::Submitted submitted_;
  bool ended_ = false;
  bool first_token_seen_ = false;
};

// "stop" or "length", OpenAI's words.
const char* openai_finish_reason(FinishReason reason);

}  // namespace quarry::http
