#include "generator/decode/compare_models.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/log_sum_exp.h"
#include "generator/nn/kv_cache.h"

namespace quarry {
namespace {

// Rows of logits that exist at once.
constexpr int64_t kRowsAtOnce = 64;

// Sums over predictions.
struct Sums {
  double reference_loss = 0.0;
  double loss = 0.0;
  double kl = 0.0;
  double max_kl = 0.0;
  int64_t same_top = 0;
  int64_t count = 0;
};

void add_prediction(const float* p, const float* q, int64_t vocab_size, int32_t target,
                    Sums& sums) {
  const double log_p_sum = log_sum_exp(p, static_cast<size_t>(vocab_size));
  const double log_q_sum = log_sum_exp(q, static_cast<size_t>(vocab_size));
  double kl = 0.0;
  for (int64_t i = 0; i < vocab_size; ++i) {
    const double log_p = p[i] - log_p_sum;
    kl += std::exp(log_p) * (log_p - (q[i] - log_q_sum));
  }
  sums.reference_loss += log_p_sum - p[target];
  sums.loss += log_q_sum - q[target];
  sums.kl += kl;
  sums.max_kl = std::max(sums.max_kl, kl);
  sums.same_top +=
      std::max_element(p, p + vocab_size) - p == std::max_element(q, q + vocab_size) - q;
  ++sums.count;
}

std::vector<float> next_logits(const CausalLm& model, KvCache& cache, const int32_t* tokens,
                               int64_t count) {
  SequenceChunk chunk;
  chunk.tokens = tokens;
  chunk.num_tokens = count;
  chunk.cache = &cache;
  chunk.all_logits = true;
  return model.forward({chunk});
}

void add_window(const CausalLm& reference, const CausalLm& other, const int32_t* tokens,
                int64_t count, Sums& sums) {
  const auto reference_cache = reference.make_cache();
  const auto other_cache = other.make_cache();
  const int64_t vocab_size = reference.config().vocab_size;
  for (int64_t begin = 0; begin + 1 < count; begin += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, count - 1 - begin);
    const std::vector<float> p = next_logits(reference, *reference_cache, tokens + begin, rows);
    const std::vector<float> q = next_logits(other, *other_cache, tokens + begin, rows);
    for (int64_t row = 0; row < rows; ++row) {
      add_prediction(p.data() + row * vocab_size, q.data() + row * vocab_size, vocab_size,
                     tokens[begin + row + 1], sums);
    }
  }
}

}  // namespace

ModelComparison compare_models(const LoadedGenerator& reference, const LoadedGenerator& other,
                               const std::string& text, const CompareOptions& options) {
  QUARRY_CHECK(reference.model->config().vocab_size == other.model->config().vocab_size,
               ErrorCode::kInvalidArgument, "cannot compare ", reference.name,
               " with a vocabulary of ", reference.model->config().vocab_size, " and ", other.name,
               " with one of ", other.model->config().vocab_size);
  QUARRY_CHECK(!reference.model->config().has_encoder() && !other.model->config().has_encoder(),
               ErrorCode::kInvalidArgument, "cannot compare ", reference.name, " with ", other.name,
               ": a running text has no source for an encoder to read");
  std::vector<int32_t> tokens = reference.tokenizer->encode(text, Tokenizer::SpecialTokens::kNone);
  tokens.resize(std::min(tokens.size(), static_cast<size_t>(options.max_tokens)));
  const auto count = static_cast<int64_t>(tokens.size());
  QUARRY_CHECK(count >= 2, ErrorCode::kInvalidArgument, "the text has ", count,
               " tokens, at least 2 are wanted");
  const int64_t window = std::min(options.window_tokens, reference.model->config().max_seq_len);
  Sums sums;
  for (int64_t begin = 0; begin < count; begin += window) {
    add_window(*reference.model, *other.model, tokens.data() + begin,
               std::min(window, count - begin), sums);
  }
  const auto n = static_cast<double>(sums.count);
  ModelComparison result;
  result.tokens = sums.count;
  result.reference_perplexity = std::exp(sums.reference_loss / n);
  result.perplexity = std::exp(sums.loss / n);
  result.mean_kl = sums.kl / n;
  result.max_kl = sums.max_kl;
  result.same_top_token = static_cast<double>(sums.same_top) / n;
  return result;
}

}  // namespace quarry
