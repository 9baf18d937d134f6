#pragma once

#include <cstddef>
#include <vector>

namespace quarry {

// Loss of one question over k passages, in double precision.
struct ListwiseLoss {
  double loss = 0.0;                    // in nats
  std::vector<double> probabilities;    // [k]: p = softmax(scores / temperature)
  std::vector<double> score_gradients;  // [k]: derivative with respect to scores; sums to 0
};

// KL(target || softmax(scores / temperature)) of a distribution `target` [k] (ListNet: Cao et al.
// 2007). score_gradients = (p - target) / temperature. Throws kInvalidArgument: no passage, lists
// of different lengths, a temperature that is not positive.
ListwiseLoss listwise_softmax_loss(const std::vector<double>& scores,
                                   const std::vector<double>& target, double temperature);

// The same where one passage is right: the cross entropy -log p[positive], which is InfoNCE (van
// den Oord et al. 2018, arXiv:1807.03748). REQUIRES: positive < scores.size().
ListwiseLoss listwise_softmax_loss(const std::vector<double>& scores, size_t positive,
                                   double temperature);

// Where a passage stands by its score, from 1; after those of the same score.
size_t rank_of_passage(const std::vector<double>& scores, size_t passage);

}  // namespace quarry
