#include "api/http/generation.h"

#include <random>

namespace quarry::http {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 20;
constexpr size_t kMostStops = 16;
constexpr size_t kLongestStop = 1024;
constexpr std::chrono::milliseconds kPollInterval{20};
constexpr double kIdleSeconds = 5.0;

std::vector<std::string> read_stop(const Fields& fields) {
  const Json* value = fields.find("stop");
  if (value == nullptr) return {};
  const Json list = value->is_array() ? *value : Json::array({*value});
  std::vector<std::string> stop;
  for (const Json& item : list) {
    const bool good = item.is_string() && !item.get_ref<const std::string&>().empty() &&
                      item.get_ref<const std::string&>().size() <= kLongestStop;
    if (!good) fields.fail("stop", "a string or an array of non-empty strings");
    stop.push_back(item.get<std::string>());
  }
  if (stop.size() > kMostStops) fields.fail("stop", concat("at most ", kMostStops, " strings"));
  return stop;
}

uint64_t random_seed() { return (uint64_t{std::random_device{}()} << 32) | std::random_device{}(); }

void refuse_unsupported(const Fields& fields) {
  fields.only_one("n");
  fields.only_one("best_of");
  fields.only_zero("frequency_penalty");
  fields.only_zero("presence_penalty");
  fields.only_empty("logit_bias", "this server does not support it");
}

bool read_include_usage(const Fields& fields) {
  const Json* options = fields.find("stream_options");
  if (options == nullptr) return false;
  if (!options->is_object()) fields.fail("stream_options", "an object");
  return Fields(*options, "stream_options.").boolean("include_usage").value_or(false);
}

}  // namespace

GenerationParameters read_generation_parameters(const Fields& fields, const AskOptions& defaults,
                                                int64_t default_max_tokens) {
  refuse_unsupported(fields);
  GenerationParameters read;
  SamplingOptions& sampling = read.sampling;
  sampling = defaults.sampling;
  sampling.temperature = fields.number("temperature", 0.0, 2.0).value_or(sampling.temperature);
  sampling.top_p = fields.number("top_p", 0.0, 1.0).value_or(sampling.top_p);
  if (sampling.top_p == 0.0) sampling.top_p = 1e-6;  // OpenAI's 0: the likeliest token only
  sampling.top_k = fields.integer("top_k", 0, kMostTokens).value_or(sampling.top_k);
  sampling.min_p = fields.number("min_p", 0.0, 1.0).value_or(sampling.min_p);
  sampling.repetition_penalty =
      fields.number("repetition_penalty", 0.1, 10.0).value_or(sampling.repetition_penalty);
  const std::optional<int64_t> seed = fields.integer("seed", -(int64_t{1} << 53), int64_t{1} << 53);
  sampling.seed = seed ? static_cast<uint64_t>(*seed) : random_seed();
  const std::optional<int64_t> newer_name = fields.integer("max_completion_tokens", 1, kMostTokens);
  const std::optional<int64_t> older_name = fields.integer("max_tokens", 1, kMostTokens);
  read.max_tokens = newer_name.value_or(older_name.value_or(default_max_tokens));
  read.stop = fields.find("stop") != nullptr ? read_stop(fields) : defaults.stop;
  read.stream = fields.boolean("stream").value_or(false);
  read.include_usage = read_include_usage(fields);
  return read;
}

void check_context_length(const ServerContext& context, const char* param, int64_t tokens) {
  const CausalLmConfig& config = context.pipeline.engine().generator()->model->config();
  if (tokens > config.max_prompt_tokens()) {
    throw context_length_error(param, tokens, config.max_seq_len);
  }
}

Generation::Generation(ServerContext& context, Exchange& exchange, GenerateRequest request)
    : context_(context), exchange_(exchange), queue_(std::make_shared<TextQueue>()) {
  const auto on_text = [queue = queue_](const std::string& text) {
    const std::lock_guard<std::mutex> lock(queue->mutex);
    queue->started = true;
    queue->piece.text += text;
    queue->changed.notify_one();
    return true;
  };
  if (request.top_logprobs >= 0) {
    request.on_logprobs = [queue = queue_](const TokenLogprobs& logprobs) {
      const std::lock_guard<std::mutex> lock(queue->mutex);
      queue->piece.logprobs.push_back(logprobs);
    };
  }
  try {
    submitted_ = context_.pipeline.engine().submit(std::move(request), on_text);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kUnavailable) {
      throw engine_busy(error.what(), context_.draining);
    }
    throw;
  }
}

Generation::~Generation() {
  if (!ended_) context_.pipeline.engine().cancel(submitted_.id);
}

// Logprobs of tokens whose text is held back stay for the piece in which it comes; with no patience
// everything is taken.
TextPiece Generation::take_piece(std::chrono::milliseconds patience) {
  std::unique_lock<std::mutex> lock(queue_->mutex);
  queue_->changed.wait_for(lock, patience, [&] { return !queue_->piece.text.empty(); });
  if (queue_->started && !first_token_seen_) {
    first_token_seen_ = true;
    context_.metrics.observe_first_token(exchange_.seconds());
  }
  const bool is_last = patience == std::chrono::milliseconds(0);
  if (queue_->piece.text.empty() && !is_last) return {};
  return std::exchange(queue_->piece, TextPiece());
}

GenerateResult Generation::wait(const std::function<void(const TextPiece&)>& on_text,
                                const std::function<void()>& on_idle) {
  auto last_sign_of_life = std::chrono::steady_clock::now();
  while (true) {
    const bool ready =
        submitted_.result.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    const TextPiece piece = take_piece(ready ? std::chrono::milliseconds(0) : kPollInterval);
    const auto now = std::chrono::steady_clock::now();
    if (!piece.text.empty() || !piece.logprobs.empty()) {
      if (on_text) on_text(piece);
      last_sign_of_life = now;
    } else if (ready) {
      return finish();
    } else if (on_idle &&
               std::chrono::duration<double>(now - last_sign_of_life).count() > kIdleSeconds) {
      on_idle();
      last_sign_of_life = now;
    }
    if (exchange_.connection->client_gone()) throw ClientGone();
    if (context_.cancelling) throw shutting_down();
  }
}

GenerateResult Generation::finish() {
  GenerateResult result = submitted_.result.get();
  ended_ = true;
  if (result.finish_reason == FinishReason::kCancelled) throw shutting_down();
  if (result.finish_reason == FinishReason::kError) {
    throw ApiError(500, "the model failed: " + result.error);
  }
  return result;
}

const char* openai_finish_reason(FinishReason reason) {
  return reason == FinishReason::kLength ? "length" : "stop";
}

}  // namespace quarry::http
