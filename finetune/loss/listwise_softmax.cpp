#include "finetune/loss/listwise_softmax.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/log_sum_exp.h"

namespace quarry {

ListwiseLoss listwise_softmax_loss(const std::vector<double>& scores,
                                   const std::vector<double>& target, double temperature) {
  QUARRY_CHECK(!scores.empty() && target.size() == scores.size(), ErrorCode::kInvalidArgument,
               "a listwise loss over ", scores.size(), " scores and a target of ", target.size(),
               ", wanted one of each for at least one passage");
  QUARRY_CHECK(temperature > 0.0 && std::isfinite(temperature), ErrorCode::kInvalidArgument,
               "the temperature of a listwise loss is ", temperature, ", wanted a positive number");
  const std::vector<double> log_p = log_softmax(scores, temperature);
  ListwiseLoss result;
  for (size_t z = 0; z < scores.size(); ++z) {
    if (target[z] > 0.0) result.loss += target[z] * (std::log(target[z]) - log_p[z]);
    result.probabilities.push_back(std::exp(log_p[z]));
    result.score_gradients.push_back((result.probabilities[z] - target[z]) / temperature);
  }
  return result;
}

ListwiseLoss listwise_softmax_loss(const std::vector<double>& scores, size_t positive,
                                   double temperature) {
  std::vector<double> target(scores.size(), 0.0);
  if (!target.empty()) target.at(positive) = 1.0;
  return listwise_softmax_loss(scores, target, temperature);
}

size_t rank_of_passage(const std::vector<double>& scores, size_t passage) {
  const auto before = std::count_if(scores.begin(), scores.end(),
                                    [&](double score) { return score >= scores[passage]; });
  return static_cast<size_t>(before);
}

}  // namespace quarry
