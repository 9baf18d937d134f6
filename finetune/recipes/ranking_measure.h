#pragma once

#include <string>
#include <utility>
#include <vector>

#include "data/distributed/process_group.h"
#include "finetune/loss/listwise_softmax.h"

namespace quarry {

// How well scores rank the right passage of each question, which is the first of its passages.
class RankingMeasure {
 public:
  void add(const std::vector<double>& scores, double loss);
  // What all ranks measured.
  void sum(ProcessGroup* group);

  // Of all questions. REQUIRES: one at least.
  double mean_loss() const;
  // accuracy (share of questions whose right passage is first) and mrr (mean of 1 / its rank).
  std::vector<std::pair<std::string, double>> figures() const;

 private:
  std::vector<double> sums_ = {0.0, 0.0, 0.0, 0.0};  // questions, losses, firsts, 1 / ranks
};

}  // namespace quarry
