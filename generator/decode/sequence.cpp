#include "generator/decode/sequence.h"

#include <algorithm>
#include <utility>

namespace quarry {
namespace {

double seconds_between(std::chrono::steady_clock::time_point from,
                       std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

Sequence::Sequence(Engine::RequestId id, GenerateRequest request, Engine::OnText on_text,
                   const LoadedGenerator& generator)
    : id_(id),
      request_(std::move(request)),
      on_text_(std::move(on_text)),
      generator_(generator),
      max_tokens_(std::min(request_.max_tokens,
                           generator.model->config().max_seq_len - num_prompt_tokens())),
      sampler_(request_.sampling, request_.prompt),
      stop_matcher_(request_.stop),
      decoder_(*generator.tokenizer) {
  result_.prompt_tokens = num_prompt_tokens();
}

void Sequence::start(std::unique_ptr<KvCache> cache) {
  cache_ = std::move(cache);
  started_ = Clock::now();
}

SequenceChunk Sequence::next_chunk(int64_t prefill_budget) {
  SequenceChunk chunk;
  chunk.cache = cache_.get();
  chunk.adapter = request_.served->weights.get();
  if (prefilling()) {
    chunk.tokens = request_.prompt.data() + fed_;
    chunk.num_tokens = std::min(prefill_budget, num_prompt_tokens() - fed_);
  } else {
    chunk.tokens = &result_.tokens.back();
    chunk.num_tokens = 1;
  }
  return chunk;
}

int64_t Sequence::advance(int64_t num_tokens, const float* logits, int64_t vocab_size) {
  fed_ += num_tokens;
  if (prefilling()) {
    show("");  // lets a client that left be noticed during a long prompt
    return 0;
  }
  if (result_.tokens.empty()) {
    first_token_ = Clock::now();
    result_.prefill_seconds = seconds_between(started_, first_token_);
  }
  const size_t before = result_.tokens.size();
  const auto [token, bias] = request_.first_token_bias;
  if (before == 0 && token >= 0 && token < vocab_size) {
    std::vector<float> biased(logits, logits + vocab_size);
    biased[static_cast<size_t>(token)] += bias;
    accept(sampler_.sample(biased.data(), vocab_size));
  } else {
    accept(sampler_.sample(logits, vocab_size));
  }
  return static_cast<int64_t>(result_.tokens.size() - before);
}

void Sequence::rewind() { cache_->truncate(fed_); }

void Sequence::accept(int32_t token) {
  const std::vector<int32_t>& stops = generator_.stop_tokens;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
    end_text(FinishReason::kStop);
    return;
  }
  result_.tokens.push_back(token);
  show(stop_matcher_.push(decoder_.push(token)));
  if (finished_) return;
  if (stop_matcher_.stopped()) {
    finish(FinishReason::kStop);
  } else if (static_cast<int64_t>(result_.tokens.size()) >= max_tokens_) {
    end_text(FinishReason::kLength);
  }
}

// No more tokens: shows what was held back, which may itself complete a stop string.
void Sequence::end_text(FinishReason reason) {
  std::string rest = stop_matcher_.push(decoder_.finish());
  rest += stop_matcher_.finish();
  show(rest);
  if (!finished_) finish(stop_matcher_.stopped() ? FinishReason::kStop : reason);
}

void Sequence::show(const std::string& text) {
  result_.text += text;
  if (on_text_ && !on_text_(text)) finish(FinishReason::kCancelled);
}

void Sequence::finish(FinishReason reason, const std::string& error) {
  finished_ = true;
  result_.finish_reason = reason;
  result_.error = error;
  result_.completion_tokens = static_cast<int64_t>(result_.tokens.size());
  if (first_token_ != Clock::time_point()) {
    result_.decode_seconds = seconds_between(first_token_, Clock::now());
  }
  cache_.reset();
  request_.served.reset();
}

}  // namespace quarry
