#include "generator/decode/sampler.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "generator/kernels/elementwise.h"

namespace quarry {
namespace {

void check_range(const char* field, double value, double low, double high, const char* range) {
  QUARRY_CHECK(value >= low && value <= high, ErrorCode::kInvalidArgument, field, " is ", value,
               ", must be ", range);
}

int32_t likeliest(const float* logits, int64_t vocab_size) {
  QUARRY_CHECK(
      !kernels::has_nan(logits, vocab_size), ErrorCode::kInternal, "the model gave NaN for token ",
      std::find_if(logits, logits + vocab_size, [](float x) { return std::isnan(x); }) - logits);
  const int64_t best = vocab_size > 0 ? kernels::argmax(logits, vocab_size) : 0;
  QUARRY_CHECK(vocab_size > 0 && std::isfinite(logits[best]), ErrorCode::kInternal,
               "the model gave no finite logit");
  return static_cast<int32_t>(best);
}

}  // namespace

void validate(const SamplingOptions& options) {
  check_range("temperature", options.temperature, 0.0, 100.0, "0 (greedy) to 100");
  QUARRY_CHECK(options.top_k >= 0, ErrorCode::kInvalidArgument, "top_k is ", options.top_k,
               ", must be 0 (off) or more");
  QUARRY_CHECK(options.top_p > 0.0 && options.top_p <= 1.0, ErrorCode::kInvalidArgument,
               "top_p is ", options.top_p, ", must be above 0 and at most 1 (off)");
  check_range("min_p", options.min_p, 0.0, 1.0, "0 (off) to 1");
  QUARRY_CHECK(options.repetition_penalty > 0.0 && options.repetition_penalty <= 100.0,
               ErrorCode::kInvalidArgument, "repetition_penalty is ", options.repetition_penalty,
               ", must be above 0 and at most 100 (1 is off)");
}

Sampler::Sampler(const SamplingOptions& options, const std::vector<int32_t>& prompt)
    : options_(options), random_(options.seed) {
  if (options_.repetition_penalty != 1.0) seen_.insert(prompt.begin(), prompt.end());
}

int32_t Sampler::sample(const float* logits, int64_t vocab_size) {
  logits = penalize(logits, vocab_size);
  int32_t token = likeliest(logits, vocab_size);
  if (options_.temperature > 0.0) {
    candidates_.resize(static_cast<size_t>(vocab_size));
    for (size_t i = 0; i < candidates_.size(); ++i) {
      candidates_[i] = {static_cast<int32_t>(i), logits[i] / options_.temperature, 0.0};
    }
    keep_top_k();
    weigh();
    keep_top_p();
    keep_min_p();
    token = draw();
  }
  if (options_.repetition_penalty != 1.0) seen_.insert(token);
  return token;
}

const float* Sampler::penalize(const float* logits, int64_t vocab_size) {
  if (seen_.empty()) return logits;
  penalized_.assign(logits, logits + vocab_size);
  for (int32_t id : seen_) {
    if (id < 0 || id >= vocab_size) continue;
    float& logit = penalized_[static_cast<size_t>(id)];
    const float penalty = static_cast<float>(options_.repetition_penalty);
    logit = logit > 0.0f ? logit / penalty : logit * penalty;
  }
  return penalized_.data();
}

void Sampler::keep_top_k() {
  const size_t k = static_cast<size_t>(options_.top_k);
  if (k == 0 || k >= candidates_.size()) return;
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : a.id < b.id;
  };
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(k),
                    candidates_.end(), better);
  candidates_.resize(k);
}

void Sampler::weigh() {
  double best = candidates_.front().score;
  for (const Candidate& candidate : candidates_) best = std::max(best, candidate.score);
  for (Candidate& candidate : candidates_) candidate.weight = std::exp(candidate.score - best);
}

// The fewest most likely tokens whose probability reaches top_p. A heap instead of a sort: few
// tokens are taken from a large vocabulary.
void Sampler::keep_top_p() {
  if (options_.top_p >= 1.0) return;
  const auto worse = [](const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score < b.score : a.id > b.id;
  };
  double total = 0.0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  std::make_heap(candidates_.begin(), candidates_.end(), worse);
  std::vector<Candidate> kept;
  double sum = 0.0;
  auto heap_end = candidates_.end();
  while (heap_end != candidates_.begin() && sum < options_.top_p * total) {
    std::pop_heap(candidates_.begin(), heap_end, worse);
    --heap_end;
    sum += heap_end->weight;
    kept.push_back(*heap_end);
  }
  candidates_.swap(kept);
}

void Sampler::keep_min_p() {
  if (options_.min_p <= 0.0) return;
  // The most likely candidate weighs exp(0) = 1 and is never dropped by the filters before.
  const auto unlikely = [this](const Candidate& c) { return c.weight < options_.min_p; };
  candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(), unlikely),
                    candidates_.end());
}

int32_t Sampler::draw() {
  double total = 0.0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  double left = random_.next_unit() * total;
  for (const Candidate& candidate : candidates_) {
    left -= candidate.weight;
    if (left < 0.0) return candidate.id;
  }
  // Rounding let `left` survive the last candidate: take the last that can be drawn at all.
  for (auto it = candidates_.rbegin(); it != candidates_.rend(); ++it) {
    if (it->weight > 0.0) return it->id;
  }
  return candidates_.front().id;
}

}  // namespace quarry
