#include "retriever/passage_prior.h"

#include "data/core/error.h"
#include "data/core/log_sum_exp.h"

namespace quarry {

std::vector<double> log_passage_prior(const std::vector<Hit>& hits, double temperature) {
  QUARRY_CHECK(temperature > 0.0, ErrorCode::kInvalidArgument, "the temperature of p(z|x) is ",
               temperature, ", wanted a positive number");
  std::vector<double> scores;
  for (const Hit& hit : hits) {
    QUARRY_CHECK(hit.dense_score.has_value(), ErrorCode::kInvalidArgument, "passage ",
                 hit.passage.id,
                 " has no dense score, which p(z|x) is made of: search by dense or hybrid");
    scores.push_back(*hit.dense_score);
  }
  return log_softmax(scores, temperature);
}

}  // namespace quarry
