#include "generator/decode/marginal_decode.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <limits>
#include <memory>
#include <numeric>

#include "data/core/error.h"
#include "data/core/log_sum_exp.h"
#include "data/core/stopwatch.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/nn/kv_cache.h"

namespace quarry {
namespace {

using Clock = std::chrono::steady_clock;

// A distribution over the vocabulary.
class TokenDistribution {
 public:
  TokenDistribution(const float* logits, int64_t vocab_size,
                    const GenerateRequest::FirstTokenBias& bias)
      : p_(logits, logits + vocab_size) {
    if (bias.token >= 0 && bias.token < vocab_size)
      p_[static_cast<size_t>(bias.token)] += bias.bias;
    kernels::softmax(p_.data(), vocab_size);
  }
  const std::vector<float>& p() const { return p_; }
  // Takes `mass` away from what the tokens have together and scales the rest to sum to 1.
  void discount(const std::vector<int32_t>& tokens, double mass) {
    const double before = p_of_any(tokens);
    const double kept = before > mass ? (before - mass) / before : 0.0;
    for (const int32_t token : tokens) {
      if (static_cast<size_t>(token) < p_.size()) {
        p_[static_cast<size_t>(token)] *= static_cast<float>(kept);
      }
    }
    const double rest = std::accumulate(p_.begin(), p_.end(), 0.0);
    const double factor = rest > 0.0 ? 1.0 / rest : 0.0;
    for (float& value : p_) value = static_cast<float>(value * factor);
  }
  double p_of(int32_t token) const { return double{p_[static_cast<size_t>(token)]}; }
  double log_p(int32_t token) const { return std::log(p_of(token)); }
  double p_of_any(const std::vector<int32_t>& tokens) const {
    double total = 0.0;
    for (const int32_t token : tokens) {
      if (static_cast<size_t>(token) < p_.size()) total += double{p_[static_cast<size_t>(token)]};
    }
    return total;
  }
  int32_t likeliest() const {
    return static_cast<int32_t>(kernels::argmax(p_.data(), static_cast<int64_t>(p_.size())));
  }

 private:
  std::vector<float> p_;
};

class Decoder {
 public:
  Decoder(const CausalLm& model, const MarginalRequest& request, const RunOnModel& run,
          const std::function<bool()>& keep_going)
      : model_(model),
        request_(request),
        run_(run),
        keep_going_(keep_going),
        vocab_size_(model.config().vocab_size) {
    QUARRY_CHECK(!request.prompts.empty() && request.log_prior.size() == request.prompts.size(),
                 ErrorCode::kInvalidArgument, "decoding over ", request.prompts.size(),
                 " prompts with ", request.log_prior.size(),
                 " priors, wanted one of each for at least one passage");
    for (const std::vector<int32_t>& prompt : request.prompts) {
      QUARRY_CHECK(!prompt.empty(), ErrorCode::kInvalidArgument, "decoding of an empty prompt");
    }
  }

  MarginalResult decode(Marginal marginal) {
    const auto start = Clock::now();
    MarginalResult result;
    if (!prefill()) {
      result.finish_reason = FinishReason::kCancelled;
      return result;
    }
    result.prefill_seconds = seconds_since(start);
    const auto decode_start = Clock::now();
    if (!find_refusals()) {
      result.finish_reason = FinishReason::kCancelled;
    } else if (marginal == Marginal::kSequence) {
      decode_sequence(result);
    } else {
      decode_token(result);
    }
    result.decode_seconds = seconds_since(decode_start);
    return result;
  }

 private:
  // What a passage thinks of the refusal.
  struct Refusal {
    bool is_given = false;  // by greedy decoding
    // [length + 1]: how likely an answer that is the refusal so far, to that length, is the whole
    // of it in the end.
    std::vector<double> goes_on;
  };

  size_t num_passages() const { return request_.prompts.size(); }
  bool keep_going() const { return !keep_going_ || keep_going_(); }
  bool is_stop(int32_t token) const {
    const auto& stops = request_.stop_tokens;
    return std::find(stops.begin(), stops.end(), token) != stops.end();
  }

  SequenceChunk chunk_of(size_t z, const int32_t* tokens, size_t count) const {
    SequenceChunk chunk;
    chunk.tokens = tokens;
    chunk.num_tokens = static_cast<int64_t>(count);
    chunk.cache = caches_[z].get();
    chunk.adapter = reaches_[z].at(caches_[z]->length());
    return chunk;
  }

  // Distributions of the rows of logits that `chunks` give.
  std::vector<TokenDistribution> forward(const std::vector<SequenceChunk>& chunks,
                                         const GenerateRequest::FirstTokenBias& bias = {}) const {
    std::vector<float> logits;
    run_([&] { logits = model_.forward(chunks); });
    std::vector<TokenDistribution> rows;
    for (size_t at = 0; at < logits.size(); at += static_cast<size_t>(vocab_size_)) {
      rows.emplace_back(logits.data() + at, vocab_size_, bias);
    }
    return rows;
  }

  bool prefill() {
    const auto most = static_cast<size_t>(std::max<int64_t>(1, request_.prefill_chunk_tokens));
    for (size_t z = 0; z < num_passages(); ++z) {
      caches_.push_back(model_.make_cache());
      std::vector<int32_t> prompt;
      const auto begin_prompt = [&] {
        prompt = begin_sequence(model_, request_.prompts[z], request_.adapter, *caches_[z]);
      };
      if (model_.config().has_encoder()) {
        run_(begin_prompt);
      } else {
        begin_prompt();  // runs no model
      }
      reaches_.emplace_back(request_.adapter, prompt);
      for (size_t begin = 0; begin < prompt.size();) {
        if (!keep_going()) return false;
        const auto count = static_cast<size_t>(
            reaches_[z].cut(static_cast<int64_t>(begin),
                            static_cast<int64_t>(std::min(most, prompt.size() - begin))));
        std::vector<TokenDistribution> rows =
            forward({chunk_of(z, prompt.data() + begin, count)}, request_.first_token_bias);
        begin += count;
        if (begin == prompt.size()) first_.push_back(std::move(rows.front()));
      }
      prefilled_.push_back(caches_[z]->length());
    }
    return true;
  }

  // What passage z gives for what follows the first 0, 1, .. tokens.size() of these, each passage's
  // in one call of the model; none where the context has no room for them. The caches are then as
  // after prefill.
  std::vector<std::vector<TokenDistribution>> read(const std::vector<int32_t>& tokens) const {
    std::vector<std::vector<TokenDistribution>> result(num_passages());
    std::vector<SequenceChunk> chunks;
    for (size_t z = 0; z < num_passages(); ++z) {
      caches_[z]->truncate(prefilled_[z]);
      const auto length = static_cast<int64_t>(tokens.size());
      if (prefilled_[z] + length > model_.config().max_seq_len) continue;
      result[z].push_back(first_[z]);
      if (tokens.empty()) continue;
      chunks.push_back(chunk_of(z, tokens.data(), tokens.size()));
      chunks.back().all_logits = true;
    }
    if (chunks.empty()) return result;
    std::vector<TokenDistribution> rows = forward(chunks);
    auto next = rows.begin();
    for (size_t z = 0; z < num_passages(); ++z) {
      if (result[z].empty()) continue;
      const auto end = next + static_cast<std::ptrdiff_t>(tokens.size());
      std::move(next, end, std::back_inserter(result[z]));
      next = end;
      caches_[z]->truncate(prefilled_[z]);
    }
    return result;
  }

  // False when cancelled.
  bool find_refusals() {
    const std::vector<int32_t>& refusal = request_.refusal;
    refusals_.assign(num_passages(), {false, std::vector<double>(refusal.size() + 1, 0.0)});
    if (refusal.empty()) return true;
    if (!keep_going()) return false;
    const std::vector<std::vector<TokenDistribution>> rows = read(refusal);
    for (size_t z = 0; z < num_passages(); ++z) {
      if (rows[z].empty()) continue;
      const TokenDistribution& end = rows[z].back();
      refusals_[z].goes_on.back() = end.p_of_any(request_.stop_tokens);
      refusals_[z].is_given = is_stop(end.likeliest());
      for (size_t i = refusal.size(); i-- > 0;) {
        refusals_[z].goes_on[i] = rows[z][i].p_of(refusal[i]) * refusals_[z].goes_on[i + 1];
        if (rows[z][i].likeliest() != refusal[i]) refusals_[z].is_given = false;
      }
    }
    return true;
  }
  bool all_refuse() const {
    return std::all_of(refusals_.begin(), refusals_.end(),
                       [](const Refusal& refusal) { return refusal.is_given; });
  }

  // Sets finish_reason when it is kCancelled.
  void decode_sequence(MarginalResult& result) {
    result.passage_tokens.resize(num_passages());
    std::vector<bool> ended(num_passages(), false);
    if (!answer_each(result.passage_tokens, ended)) {
      result.finish_reason = FinishReason::kCancelled;
      return;
    }
    double best = -std::numeric_limits<double>::infinity();
    std::vector<std::vector<int32_t>> scored;
    for (size_t writer = 0; writer < num_passages(); ++writer) {
      const std::vector<int32_t>& answer = result.passage_tokens[writer];
      if (std::find(scored.begin(), scored.end(), answer) != scored.end()) continue;
      if (refusals_[writer].is_given && !all_refuse()) continue;
      if (!keep_going()) {
        result.finish_reason = FinishReason::kCancelled;
        return;
      }
      scored.push_back(answer);
      const std::vector<double> joint = log_joint(answer, ended[writer]);
      const double total = log_sum_exp(joint);
      if (scored.size() > 1 && !(total > best)) continue;
      best = total;
      result.tokens = answer;
      result.finish_reason = ended[writer] ? FinishReason::kStop : FinishReason::kLength;
      result.log_likelihood = total;
      result.posterior.clear();
      for (const double value : log_softmax(joint)) result.posterior.push_back(std::exp(value));
    }
  }

  // Greedy answers of all passages, side by side. False when cancelled.
  bool answer_each(std::vector<std::vector<int32_t>>& answers, std::vector<bool>& ended) {
    std::vector<int32_t> next(num_passages());
    std::vector<size_t> active;
    const auto choose = [&](size_t z, const TokenDistribution& distribution) {
      next[z] = distribution.likeliest();
      ended[z] = is_stop(next[z]);
      if (ended[z]) return;
      answers[z].push_back(next[z]);
      if (static_cast<int64_t>(answers[z].size()) < most_tokens(z)) active.push_back(z);
    };
    for (size_t z = 0; z < num_passages(); ++z) {
      if (refusals_[z].is_given) {
        answers[z] = request_.refusal;
        const auto most = static_cast<size_t>(std::max<int64_t>(1, most_tokens(z)));
        ended[z] = answers[z].size() < most;
        if (answers[z].size() > most) answers[z].resize(most);
      } else {
        choose(z, first_[z]);
      }
    }
    while (!active.empty()) {
      if (!keep_going()) return false;
      const std::vector<size_t> running = std::move(active);
      active.clear();
      std::vector<SequenceChunk> chunks;
      for (const size_t z : running) chunks.push_back(chunk_of(z, &next[z], 1));
      const std::vector<TokenDistribution> rows = forward(chunks);
      for (size_t i = 0; i < running.size(); ++i) choose(running[i], rows[i]);
    }
    return true;
  }

  // What the request and the context behind passage z's prompt leave.
  int64_t most_tokens(size_t z) const {
    return std::min(request_.max_tokens, model_.config().max_seq_len - prefilled_[z]);
  }

  // [k]: log p(z|x) p(answer|x,z), with the stop behind the answer when it ended.
  std::vector<double> log_joint(const std::vector<int32_t>& answer, bool ended) const {
    std::vector<int32_t> fed = answer;
    if (!ended && !fed.empty()) fed.pop_back();  // what follows it does not matter
    const std::vector<std::vector<TokenDistribution>> rows = read(fed);
    std::vector<double> joint = request_.log_prior;
    for (size_t z = 0; z < num_passages(); ++z) {
      if (rows[z].empty()) joint[z] = -std::numeric_limits<double>::infinity();
      for (size_t i = 0; i < rows[z].size(); ++i) {
        if (i < answer.size()) {
          joint[z] += rows[z][i].log_p(answer[i]);
        } else if (ended) {
          joint[z] += std::log(rows[z][i].p_of_any(request_.stop_tokens));
        }
      }
    }
    return joint;
  }

  // p(z|x), given that z does not refuse unless all do.
  std::vector<double> prior_of_answering() const {
    std::vector<double> logs = request_.log_prior;
    if (!all_refuse()) {
      for (size_t z = 0; z < logs.size(); ++z) {
        logs[z] += std::log(std::max(1e-30, 1.0 - refusals_[z].goes_on.front()));
      }
    }
    std::vector<double> prior;
    for (const double value : log_softmax(logs)) prior.push_back(std::exp(value));
    return prior;
  }

  // Takes away from rows, which follow `answer`, what would make it the refusal.
  void exclude_refusal(const std::vector<int32_t>& answer,
                       std::vector<TokenDistribution>& rows) const {
    const std::vector<int32_t>& refusal = request_.refusal;
    const size_t length = answer.size();
    if (refusal.empty() || all_refuse() || length > refusal.size()) return;
    if (!std::equal(answer.begin(), answer.end(), refusal.begin())) return;
    const std::vector<int32_t> next =
        length < refusal.size() ? std::vector<int32_t>{refusal[length]} : request_.stop_tokens;
    for (size_t z = 0; z < rows.size(); ++z) rows[z].discount(next, refusals_[z].goes_on[length]);
  }

  void decode_token(MarginalResult& result) {
    std::vector<TokenDistribution> rows = first_;
    std::vector<double> posterior_sum(num_passages(), 0.0);
    const std::vector<double> prior = prior_of_answering();
    double steps = 0.0;
    int64_t most = request_.max_tokens;
    for (size_t z = 0; z < num_passages(); ++z) most = std::min(most, most_tokens(z));
    result.finish_reason = FinishReason::kLength;
    while (true) {
      exclude_refusal(result.tokens, rows);
      std::vector<float> mixed(static_cast<size_t>(vocab_size_), 0.0f);
      for (size_t z = 0; z < num_passages(); ++z) {
        kernels::add_scaled(rows[z].p().data(), static_cast<float>(prior[z]), vocab_size_,
                            mixed.data());
      }
      const auto token = static_cast<int32_t>(kernels::argmax(mixed.data(), vocab_size_));
      const bool ends = is_stop(token);
      std::vector<double> joint = prior;
      double total = 0.0;
      for (size_t z = 0; z < num_passages(); ++z) {
        joint[z] *= ends ? rows[z].p_of_any(request_.stop_tokens)
                         : double{rows[z].p()[static_cast<size_t>(token)]};
        total += joint[z];
      }
      for (size_t z = 0; z < num_passages(); ++z) posterior_sum[z] += joint[z] / total;
      result.log_likelihood += std::log(total);
      steps += 1.0;
      if (ends) {
        result.finish_reason = FinishReason::kStop;
        break;
      }
      result.tokens.push_back(token);
      if (static_cast<int64_t>(result.tokens.size()) >= most) break;
      if (!keep_going()) {
        result.finish_reason = FinishReason::kCancelled;
        break;
      }
      std::vector<SequenceChunk> chunks;
      for (size_t z = 0; z < num_passages(); ++z) chunks.push_back(chunk_of(z, &token, 1));
      rows = forward(chunks);
    }
    for (const double sum : posterior_sum) result.posterior.push_back(sum / steps);
  }

  const CausalLm& model_;
  const MarginalRequest& request_;
  const RunOnModel& run_;
  const std::function<bool()>& keep_going_;
  const int64_t vocab_size_;
  std::vector<std::unique_ptr<KvCache>> caches_;
  std::vector<AdapterReach> reaches_;     // of each passage's prompt
  std::vector<int64_t> prefilled_;        // tokens of each before the answer
  std::vector<TokenDistribution> first_;  // of the first token after each prompt
  std::vector<Refusal> refusals_;         // of each passage
};

}  // namespace

MarginalResult decode_marginal(const CausalLm& model, Marginal marginal,
                               const MarginalRequest& request, const RunOnModel& run,
                               const std::function<bool()>& keep_going) {
  return Decoder(model, request, run, keep_going).decode(marginal);
}

}  // namespace quarry
