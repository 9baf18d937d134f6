#include "finetune/loss/marginal_likelihood.h"

#include <cmath>
#include <numeric>

#include "data/core/error.h"
#include "data/core/log_sum_exp.h"
#include "finetune/loss/listwise_softmax.h"

namespace quarry {
namespace {

void check(const MarginalInputs& inputs) {
  const size_t k = inputs.scores.size();
  QUARRY_CHECK(k > 0 && inputs.token_losses.size() == k, ErrorCode::kInvalidArgument,
               "a marginal likelihood over ", k, " scores and the token losses of ",
               inputs.token_losses.size(),
               " passages, wanted one of each for at least one passage");
  const size_t tokens = inputs.token_losses.front().size();
  QUARRY_CHECK(tokens > 0, ErrorCode::kInvalidArgument,
               "a marginal likelihood of a target without tokens");
  for (const std::vector<double>& losses : inputs.token_losses) {
    QUARRY_CHECK(losses.size() == tokens, ErrorCode::kInvalidArgument,
                 "a marginal likelihood of a target of ", tokens, " tokens with one passage and ",
                 losses.size(), " with another");
  }
  QUARRY_CHECK(inputs.temperature > 0.0 && std::isfinite(inputs.temperature),
               ErrorCode::kInvalidArgument, "the temperature of a retriever is ",
               inputs.temperature, ", wanted a positive number");
  QUARRY_CHECK(inputs.teacher_temperature > 0.0 && std::isfinite(inputs.teacher_temperature),
               ErrorCode::kInvalidArgument, "the temperature of a teacher is ",
               inputs.teacher_temperature, ", wanted a positive number");
}

std::vector<double> exp_of(const std::vector<double>& logs) {
  std::vector<double> values;
  for (const double value : logs) values.push_back(std::exp(value));
  return values;
}

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

enum class LengthNorm { kSum, kMean };

// log softmax_z of the answer's log-likelihood with each passage, over a temperature.
std::vector<double> log_teacher(const MarginalInputs& inputs, LengthNorm norm, double temperature) {
  std::vector<double> likelihood;
  for (const std::vector<double>& losses : inputs.token_losses) {
    const double tokens = norm == LengthNorm::kMean ? static_cast<double>(losses.size()) : 1.0;
    likelihood.push_back(-sum(losses) / tokens);
  }
  return log_softmax(likelihood, temperature);
}

}  // namespace

MarginalLoss rag_sequence_loss(const MarginalInputs& inputs) {
  check(inputs);
  const std::vector<double> log_prior = log_softmax(inputs.scores, inputs.temperature);
  std::vector<double> joint = log_prior;  // log p(z|x) p(y|x,z)
  for (size_t z = 0; z < joint.size(); ++z) joint[z] -= sum(inputs.token_losses[z]);
  MarginalLoss result;
  result.loss = -log_sum_exp(joint);
  result.prior = exp_of(log_prior);
  result.posterior = exp_of(log_softmax(joint));
  for (size_t z = 0; z < joint.size(); ++z) {
    result.token_weights.emplace_back(inputs.token_losses[z].size(), result.posterior[z]);
    result.score_gradients.push_back((result.prior[z] - result.posterior[z]) / inputs.temperature);
  }
  return result;
}

MarginalLoss rag_token_loss(const MarginalInputs& inputs) {
  check(inputs);
  const size_t k = inputs.scores.size();
  const size_t tokens = inputs.token_losses.front().size();
  const std::vector<double> log_prior = log_softmax(inputs.scores, inputs.temperature);
  MarginalLoss result;
  result.prior = exp_of(log_prior);
  result.posterior.assign(k, 0.0);
  result.score_gradients.assign(k, 0.0);
  result.token_weights.assign(k, std::vector<double>(tokens));
  for (size_t i = 0; i < tokens; ++i) {
    std::vector<double> joint = log_prior;
    for (size_t z = 0; z < k; ++z) joint[z] -= inputs.token_losses[z][i];
    result.loss -= log_sum_exp(joint);
    const std::vector<double> posterior = exp_of(log_softmax(joint));
    for (size_t z = 0; z < k; ++z) {
      result.token_weights[z][i] = posterior[z];
      result.posterior[z] += posterior[z] / static_cast<double>(tokens);
      result.score_gradients[z] += (result.prior[z] - posterior[z]) / inputs.temperature;
    }
  }
  return result;
}

// With d = log p - log q:  KL = sum_z p d  and  dKL/ds = p (d - KL) / temperature.
MarginalLoss replug_lsr_loss(const MarginalInputs& inputs) {
  check(inputs);
  const std::vector<double> log_prior = log_softmax(inputs.scores, inputs.temperature);
  const std::vector<double> log_wanted = log_teacher(inputs, LengthNorm::kSum, 1.0);
  MarginalLoss result;
  result.prior = exp_of(log_prior);
  result.posterior = exp_of(log_wanted);
  for (size_t z = 0; z < log_prior.size(); ++z) {
    result.loss += result.prior[z] * (log_prior[z] - log_wanted[z]);
  }
  for (size_t z = 0; z < log_prior.size(); ++z) {
    const double difference = log_prior[z] - log_wanted[z];
    result.score_gradients.push_back(result.prior[z] * (difference - result.loss) /
                                     inputs.temperature);
    result.token_weights.emplace_back(inputs.token_losses[z].size(), 0.0);
  }
  return result;
}

MarginalLoss pdist_loss(const MarginalInputs& inputs) {
  check(inputs);
  MarginalLoss result;
  result.posterior = exp_of(log_teacher(inputs, LengthNorm::kMean, inputs.teacher_temperature));
  ListwiseLoss student = listwise_softmax_loss(inputs.scores, result.posterior, inputs.temperature);
  result.loss = student.loss;
  result.prior = std::move(student.probabilities);
  result.score_gradients = std::move(student.score_gradients);
  for (const std::vector<double>& losses : inputs.token_losses) {
    result.token_weights.emplace_back(losses.size(), 0.0);
  }
  return result;
}

double entropy(const std::vector<double>& probabilities) {
  double total = 0.0;
  for (const double p : probabilities) {
    if (p > 0.0) total -= p * std::log(p);
  }
  return total;
}

}  // namespace quarry
