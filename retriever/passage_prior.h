#pragma once

#include <vector>

#include "data/types.h"

namespace quarry {

// What sentence encoders are trained with: cosines times 20.
constexpr double kPriorTemperature = 0.05;

// log p(z|x) of the passages that were found for a question: the log-softmax of their dense scores
// over the temperature (Lewis et al. 2020, arXiv:2005.11401, with a temperature). Throws
// kInvalidArgument when a hit has no dense score, as after lexical search.
std::vector<double> log_passage_prior(const std::vector<Hit>& hits, double temperature);

}  // namespace quarry
