#include "finetune/recipes/ranking_measure.h"

#include "finetune/shared_step.h"

namespace quarry {

void RankingMeasure::add(const std::vector<double>& scores, double loss) {
  const size_t rank = rank_of_passage(scores, 0);
  sums_[0] += 1.0;
  sums_[1] += loss;
  sums_[2] += rank == 1 ? 1.0 : 0.0;
  sums_[3] += 1.0 / static_cast<double>(rank);
}

void RankingMeasure::sum(ProcessGroup* group) { sum_over_ranks(group, sums_); }

double RankingMeasure::mean_loss() const { return sums_[1] / sums_[0]; }

std::vector<std::pair<std::string, double>> RankingMeasure::figures() const {
  return {{"accuracy", sums_[2] / sums_[0]}, {"mrr", sums_[3] / sums_[0]}};
}

}  // namespace quarry
