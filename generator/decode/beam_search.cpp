#include "generator/decode/beam_search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "data/core/error.h"
#include "data/core/log_sum_exp.h"
#include "data/core/stopwatch.h"
#include "generator/decode/constraint/constraint.h"
#include "generator/decode/stop_matcher.h"
#include "generator/nn/kv_cache.h"

namespace quarry {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kPromptChunkTokens = 256;

struct Beam {
  std::vector<int32_t> tokens;  // generated
  double logprob = 0.0;         // of all of them
  std::unique_ptr<KvCache> cache;
  std::vector<double> next;  // log-probabilities of the next token; -infinity: must not come
  std::optional<ConstraintState> constraint;
};

struct Candidate {
  size_t beam;
  int32_t token;
  double logprob;
};

struct Finished {
  std::vector<int32_t> tokens;  // the end token not included
  double score;
  FinishReason reason;
};

class BeamSearch {
 public:
  BeamSearch(const LoadedGenerator& generator, const GenerateRequest& request,
             const BeamSearchOptions& options);

  // Returns false when `keep_going` did.
  bool run(const std::function<bool()>& keep_going);
  const Finished& best() const { return finished_.front(); }
  double prefill_seconds() const { return prefill_seconds_; }

 private:
  bool read_prompt(const std::function<bool()>& keep_going);
  void forward_beams();
  static void set_next(Beam& beam, const std::vector<double>& logits);
  std::vector<Candidate> best_candidates() const;
  void divide(const std::vector<Candidate>& candidates);
  void finish(const Candidate& candidate, bool is_end);
  bool can_improve() const;
  bool is_end(int32_t token) const;
  // What a decoder is made to begin with, its start token aside, counts as transformers counts it.
  double score(double logprob) const {
    const auto length = static_cast<double>(num_forced_ + num_tokens_);
    return logprob / std::pow(length, options_.length_penalty);
  }

  const LoadedGenerator& generator_;
  const GenerateRequest& request_;
  const BeamSearchOptions options_;
  const LoraAdapter* adapter_;  // of the next step
  int64_t max_tokens_;
  int64_t num_tokens_ = 0;          // of each beam
  int64_t num_forced_ = 0;          // tokens of a decoder's beginning, all but its start token
  std::vector<Beam> beams_;         // best first
  std::vector<Finished> finished_;  // best first, at most num_beams
  double prefill_seconds_ = 0.0;
};

BeamSearch::BeamSearch(const LoadedGenerator& generator, const GenerateRequest& request,
                       const BeamSearchOptions& options)
    : generator_(generator),
      request_(request),
      options_(options),
      adapter_(request.served->weights.get()) {
  const CausalLmConfig& config = generator.model->config();
  const int64_t length = static_cast<int64_t>(request.prompt.size());
  QUARRY_CHECK(options.num_beams >= 1 && options.num_beams <= kMostBeams,
               ErrorCode::kInvalidArgument, "num_beams is ", options.num_beams, ", must be 1 to ",
               kMostBeams);
  QUARRY_CHECK(std::isfinite(options.length_penalty), ErrorCode::kInvalidArgument,
               "length_penalty is ", options.length_penalty, ", must be finite");
  QUARRY_CHECK(request.sampling.temperature == 0.0, ErrorCode::kInvalidArgument,
               "beam search does not sample: temperature is ", request.sampling.temperature,
               ", must be 0");
  QUARRY_CHECK(request.top_logprobs < 0, ErrorCode::kInvalidArgument,
               "beam search gives no log-probabilities of tokens");
  QUARRY_CHECK(length >= 1 && length <= config.max_prompt_tokens(), ErrorCode::kInvalidArgument,
               "the prompt has ", length, " tokens, must be 1 to ", config.max_prompt_tokens(),
               ", the context of ", generator.name, config.has_encoder() ? "" : " less one");
  QUARRY_CHECK(request.max_tokens >= 1, ErrorCode::kInvalidArgument, "max_tokens is ",
               request.max_tokens, ", must be 1 or more");
  QUARRY_CHECK(request.constraint == nullptr ||
                   request.constraint->tokens().vocab_size() == config.vocab_size,
               ErrorCode::kInvalidArgument, "the constraint was made for another vocabulary than ",
               generator.name, "'s");
  if (config.has_encoder()) num_forced_ = static_cast<int64_t>(config.decoder_prompt.size()) - 1;
  max_tokens_ = std::min(request.max_tokens,
                         config.max_seq_len - (config.has_encoder() ? 1 + num_forced_ : length));
}

bool BeamSearch::is_end(int32_t token) const {
  const std::vector<int32_t>& ends = generator_.stop_tokens;
  return std::find(ends.begin(), ends.end(), token) != ends.end();
}

bool BeamSearch::read_prompt(const std::function<bool()>& keep_going) {
  const Clock::time_point start = Clock::now();
  beams_.resize(1);
  Beam& beam = beams_.front();
  beam.cache = generator_.model->make_cache();
  if (request_.constraint != nullptr) beam.constraint.emplace(request_.constraint);
  const std::vector<int32_t> tokens =
      begin_sequence(*generator_.model, request_.prompt, adapter_, *beam.cache);
  const int64_t length = static_cast<int64_t>(tokens.size());
  const AdapterReach reach(adapter_, tokens);
  SequenceChunk chunk;
  chunk.cache = beam.cache.get();
  for (int64_t begin = 0; begin < length; begin += chunk.num_tokens) {
    if (!keep_going()) return false;
    chunk.tokens = tokens.data() + begin;
    chunk.num_tokens = reach.cut(begin, std::min(kPromptChunkTokens, length - begin));
    chunk.adapter = reach.at(begin);
    std::vector<float> logits = generator_.model->forward({chunk});
    const auto [token, bias] = request_.first_token_bias;
    if (token >= 0) logits.at(static_cast<size_t>(token)) += bias;
    set_next(beam, {logits.begin(), logits.end()});
  }
  adapter_ = reach.at(length);
  prefill_seconds_ = seconds_since(start);
  return true;
}

void BeamSearch::forward_beams() {
  const int64_t vocab_size = generator_.model->config().vocab_size;
  std::vector<SequenceChunk> chunks;
  for (const Beam& beam : beams_) {
    SequenceChunk chunk;
    chunk.tokens = &beam.tokens.back();
    chunk.num_tokens = 1;
    chunk.cache = beam.cache.get();
    chunk.adapter = adapter_;
    chunks.push_back(chunk);
  }
  const std::vector<float> logits = generator_.model->forward(chunks);
  for (size_t i = 0; i < beams_.size(); ++i) {
    const auto row = logits.begin() + static_cast<std::ptrdiff_t>(i) * vocab_size;
    set_next(beams_[i], {row, row + vocab_size});
  }
}

void BeamSearch::set_next(Beam& beam, const std::vector<double>& logits) {
  beam.next = log_softmax(logits);
  if (!beam.constraint) return;
  const std::shared_ptr<const TokenMask> allowed = beam.constraint->mask();
  for (size_t token = 0; token < beam.next.size(); ++token) {
    if (allowed->allows(static_cast<int32_t>(token))) continue;
    beam.next[token] = -std::numeric_limits<double>::infinity();
  }
}

// So many of the likeliest continuations of any beam that num_beams of them go on even if all the
// others end. Equal ones rank by beam, then by id.
std::vector<Candidate> BeamSearch::best_candidates() const {
  const int64_t num_ends = static_cast<int64_t>(generator_.stop_tokens.size());
  const size_t most = static_cast<size_t>(std::max<int64_t>(2, 1 + num_ends) * options_.num_beams);
  const auto better = [](const Candidate& a, const Candidate& b) {
    if (a.logprob != b.logprob) return a.logprob > b.logprob;
    return a.beam != b.beam ? a.beam < b.beam : a.token < b.token;
  };
  std::vector<Candidate> best;
  for (size_t i = 0; i < beams_.size(); ++i) {
    std::vector<Candidate> own;
    for (size_t token = 0; token < beams_[i].next.size(); ++token) {
      if (beams_[i].constraint && std::isinf(beams_[i].next[token])) continue;
      own.push_back({i, static_cast<int32_t>(token), beams_[i].logprob + beams_[i].next[token]});
    }
    const auto last = own.begin() + static_cast<std::ptrdiff_t>(std::min(most, own.size()));
    std::partial_sort(own.begin(), last, own.end(), better);
    best.insert(best.end(), own.begin(), last);
  }
  std::sort(best.begin(), best.end(), better);
  best.resize(std::min(most, best.size()));
  return best;
}

void BeamSearch::finish(const Candidate& candidate, bool is_end) {
  Finished text;
  text.tokens = beams_[candidate.beam].tokens;
  if (!is_end) text.tokens.push_back(candidate.token);
  text.score = score(candidate.logprob);
  text.reason = is_end ? FinishReason::kStop : FinishReason::kLength;
  const auto place =
      std::upper_bound(finished_.begin(), finished_.end(), text,
                       [](const Finished& a, const Finished& b) { return a.score > b.score; });
  finished_.insert(place, std::move(text));
  if (static_cast<int64_t>(finished_.size()) > options_.num_beams) finished_.pop_back();
}

// Candidates become finished texts, if they are among the num_beams best, or the next beams.
void BeamSearch::divide(const std::vector<Candidate>& candidates) {
  std::vector<Beam> next;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& candidate = candidates[i];
    const bool ends = is_end(candidate.token);
    if (ends || num_tokens_ == max_tokens_) {
      if (static_cast<int64_t>(i) < options_.num_beams) finish(candidate, ends);
    } else if (static_cast<int64_t>(next.size()) < options_.num_beams) {
      const Beam& parent = beams_[candidate.beam];
      Beam beam;
      beam.tokens = parent.tokens;
      beam.tokens.push_back(candidate.token);
      beam.logprob = candidate.logprob;
      beam.cache = generator_.model->make_cache();
      beam.cache->share(parent.cache->pages(), parent.cache->length());
      beam.cache->set_memory(parent.cache->memory());
      beam.constraint = parent.constraint;
      if (beam.constraint) beam.constraint->advance(candidate.token);
      next.push_back(std::move(beam));
    }
  }
  beams_ = std::move(next);
}

// Whether the best beam, ended here, would beat the worst finished text.
bool BeamSearch::can_improve() const {
  if (beams_.empty()) return false;
  if (static_cast<int64_t>(finished_.size()) < options_.num_beams) return true;
  return score(beams_.front().logprob) > finished_.back().score;
}

bool BeamSearch::run(const std::function<bool()>& keep_going) {
  if (!read_prompt(keep_going)) return false;
  for (;;) {
    ++num_tokens_;
    divide(best_candidates());
    QUARRY_CHECK(!beams_.empty() || !finished_.empty(), ErrorCode::kInvalidArgument,
                 "no token of the model's vocabulary continues a text as the constraint wants");
    if (!can_improve()) return true;
    if (!keep_going()) return false;
    forward_beams();
  }
}

// The text of `tokens` as far as the first stop string.
void decode(const LoadedGenerator& generator, const GenerateRequest& request,
            GenerateResult& result) {
  StopMatcher matcher(request.stop);
  IncrementalDecoder decoder(*generator.tokenizer, generator.model->config().has_encoder());
  for (const int32_t token : result.tokens) result.text += matcher.push(decoder.push(token));
  result.text += matcher.push(decoder.finish());
  result.text += matcher.finish();
  if (matcher.stopped()) result.finish_reason = FinishReason::kStop;
}

}  // namespace

GenerateResult beam_search(Engine& engine, GenerateRequest request,
                           const BeamSearchOptions& options, const Engine::OnText& on_text) {
  QUARRY_CHECK(engine.generator() != nullptr, ErrorCode::kUnavailable, "no generator is loaded");
  const LoadedGenerator& generator = *engine.generator();
  if (request.served == nullptr) request.served = engine.adapters().acquire(request.adapter);
  BeamSearch search(generator, request, options);
  GenerateResult result;
  result.prompt_tokens = static_cast<int64_t>(request.prompt.size());
  engine.run([&] {
    const Clock::time_point start = Clock::now();
    if (!search.run([&] { return !on_text || on_text(""); })) {
      result.finish_reason = FinishReason::kCancelled;
      return;
    }
    result.tokens = search.best().tokens;
    result.finish_reason = search.best().reason;
    decode(generator, request, result);
    result.completion_tokens = static_cast<int64_t>(result.tokens.size());
    result.prefill_seconds = search.prefill_seconds();
    result.decode_seconds = seconds_since(start) - search.prefill_seconds();
  });
  if (on_text && result.finish_reason != FinishReason::kCancelled) on_text(result.text);
  return result;
}

}  // namespace quarry
