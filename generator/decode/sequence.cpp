#include "generator/decode/sequence.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "data/core/error.h"

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
      history_(generator.model->config().has_encoder() ? generator.model->config().decoder_prompt
                                                       : request_.prompt),
      num_first_tokens_(static_cast<int64_t>(history_.size())),
      max_tokens_(
          std::min(request_.max_tokens, generator.model->config().max_seq_len - num_first_tokens_)),
      reach_(request_.served->weights.get(), history_),
      sampler_(request_.sampling, history_),
      stop_matcher_(request_.stop),
      decoder_(*generator.tokenizer, generator.model->config().has_encoder()) {
  result_.prompt_tokens = static_cast<int64_t>(request_.prompt.size());
  if (request_.constraint != nullptr) constraint_.emplace(request_.constraint);
}

void Sequence::start(std::unique_ptr<KvCache> cache) {
  started_ = Clock::now();
  if (generator_.model->config().has_encoder()) {
    generator_.model->encode(request_.prompt, request_.served->weights.get(), *cache);
  }
  cache_ = std::move(cache);
}

SequenceChunk Sequence::next_chunk(int64_t prefill_budget) {
  SequenceChunk chunk;
  chunk.cache = cache_.get();
  chunk.adapter = reach_.at(fed_);
  if (prefilling()) {
    chunk.tokens = history_.data() + fed_;
    chunk.num_tokens = reach_.cut(fed_, std::min(prefill_budget, num_first_tokens_ - fed_));
    return chunk;
  }
  const std::vector<int32_t>& draft = lookup_.draft().tokens;
  step_tokens_ = {history_.back()};
  step_tokens_.insert(step_tokens_.end(), draft.begin(), draft.begin() + draft_tokens_);
  chunk.tokens = step_tokens_.data();
  chunk.num_tokens = 1 + std::exchange(draft_tokens_, 0);
  chunk.all_logits = chunk.num_tokens > 1;
  return chunk;
}

const PromptLookup::Draft& Sequence::propose_draft(const std::vector<int32_t>& others,
                                                   int64_t most) {
  // The token that is sampled after the draft is the last that may come.
  const int64_t left = max_tokens_ - static_cast<int64_t>(result_.tokens.size()) - 1;
  lookup_.propose(history_, others, std::min(most, left));
  if (constraint_) lookup_.cut_draft(count_allowed(lookup_.draft().tokens));
  return lookup_.draft();
}

// What a constraint throws ends this sequence when its token is chosen, not the others here.
size_t Sequence::count_allowed(const std::vector<int32_t>& tokens) {
  try {
    return constraint_->count_allowed(tokens);
  } catch (const Error&) {
    return 0;
  }
}

int64_t Sequence::reuse_prefix(PrefixCache& prefixes) {
  const int64_t before = fed_;
  const int64_t last = num_first_tokens_ - 1;
  const int64_t of_base = std::min(reach_.begin(), last);
  if (of_base > 0) fed_ = prefixes.fetch(nullptr, history_.data(), of_base, *cache_);
  if (of_base < last) {
    fed_ = prefixes.fetch(request_.served->weights, history_.data(), last, *cache_);
  }
  result_.cached_tokens += fed_ - before;
  return fed_ - before;
}

void Sequence::keep_prefix(PrefixCache& prefixes) const {
  const int64_t num_tokens = prefilling() ? fed_ / kKvPageTokens * kKvPageTokens : fed_;
  const int64_t of_base = std::min(reach_.begin(), num_tokens);
  if (of_base > 0) prefixes.store(nullptr, history_.data(), of_base, *cache_);
  if (of_base < num_tokens) {
    prefixes.store(request_.served->weights, history_.data(), num_tokens, *cache_);
  }
}

int64_t Sequence::advance(const SequenceChunk& chunk, const float* logits, int64_t vocab_size) {
  const size_t before = result_.tokens.size();
  if (prefilling()) {
    fed_ += chunk.num_tokens;
    if (prefilling()) {
      show("");  // lets a client that left be noticed during a long prompt
      return 0;
    }
    first_token_ = Clock::now();
    result_.prefill_seconds = seconds_between(started_, first_token_);
    generate(logits, vocab_size);
  } else {
    const size_t first = history_.size();
    for (int64_t row = 0; row < chunk.num_tokens; ++row) {
      ++fed_;
      generate(logits + row * vocab_size, vocab_size);
      if (finished_ || row + 1 == chunk.num_tokens || history_.back() != chunk.tokens[row + 1]) {
        break;
      }
    }
    cache_->truncate(fed_);
    lookup_.learn(history_, first);
  }
  return static_cast<int64_t>(result_.tokens.size() - before);
}

const float* Sequence::constrain(const float* logits, int64_t vocab_size) {
  if (!constraint_) return logits;
  constrained_logits_.assign(logits, logits + vocab_size);
  constraint_->apply(constrained_logits_.data());
  return constrained_logits_.data();
}

void Sequence::generate(const float* logits, int64_t vocab_size) {
  logits = constrain(logits, vocab_size);
  accept(sample(logits, vocab_size), logits, vocab_size);
}

int32_t Sequence::sample(const float* logits, int64_t vocab_size) {
  const auto [token, bias] = request_.first_token_bias;
  if (!result_.tokens.empty() || token < 0 || token >= vocab_size) {
    return sampler_.sample(logits, vocab_size);
  }
  std::vector<float> biased(logits, logits + vocab_size);
  biased[static_cast<size_t>(token)] += bias;
  return sampler_.sample(biased.data(), vocab_size);
}

void Sequence::rewind() { cache_->truncate(fed_); }

void Sequence::note_logprobs(int32_t token, const float* logits, int64_t vocab_size) {
  if (request_.top_logprobs < 0) return;
  TokenLogprobs logprobs = token_logprobs(logits, vocab_size, token, request_.top_logprobs);
  if (constraint_) {
    while (!logprobs.top.empty() && std::isinf(logprobs.top.back().logprob)) {
      logprobs.top.pop_back();
    }
  }
  result_.logprobs.push_back(std::move(logprobs));
  if (request_.on_logprobs) request_.on_logprobs(result_.logprobs.back());
}

void Sequence::accept(int32_t token, const float* logits, int64_t vocab_size) {
  const std::vector<int32_t>& stops = generator_.stop_tokens;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
    end_text(FinishReason::kStop);
    return;
  }
  result_.tokens.push_back(token);
  history_.push_back(token);
  note_logprobs(token, logits, vocab_size);
  if (constraint_) constraint_->advance(token);
  show(stop_matcher_.push(decoder_.push(token)));
  if (finished_) return;
  if (stop_matcher_.stopped()) {
    finish(FinishReason::kStop);
  } else if (constraint_ && constraint_->is_complete()) {
    end_text(FinishReason::kStop);
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
}

void Sequence::publish() {
  cache_.reset();
  request_.served.reset();
  promise_.set_value(std::move(result_));
}

}  // namespace quarry
