#include "finetune/recipes/contrastive_trainer.h"

#include <numeric>

#include "data/core/error.h"
#include "finetune/loss/listwise_softmax.h"
#include "finetune/recipes/query_adapter.h"
#include "finetune/shared_step.h"

namespace quarry {

struct ContrastiveTrainer::Pass {
  RankingMeasure measure;                 // of all ranks
  std::vector<ScoredQuestion> questions;  // of the mean loss; those of other ranks are empty
};

ContrastiveTrainer::ContrastiveTrainer(const Embedder& embedder, TrainedAdapter& query_encoder,
                                       Optimizer& optimizer, const TrainerOptions& options,
                                       double temperature)
    : embedder_(embedder),
      query_encoder_(query_encoder),
      optimizer_(optimizer),
      options_(options),
      temperature_(temperature) {
  keep_freed_pages();
  take_from_rank_0(options_.group, query_encoder_.parameters());
  query_encoder_.pack();
}

ContrastiveTrainer::Pass ContrastiveTrainer::run(
    const std::vector<ContrastiveExample>& examples) const {
  QUARRY_CHECK(!examples.empty(), ErrorCode::kInvalidArgument, "a batch without a question");
  const auto first = static_cast<size_t>(rank_of(options_.group));
  const auto stride = static_cast<size_t>(num_ranks(options_.group));
  std::vector<std::string> texts;
  for (size_t i = first; i < examples.size(); i += stride) texts.push_back(examples[i].question);
  const std::vector<float> vectors = embedder_.embed_queries(texts);
  const auto dim = static_cast<size_t>(embedder_.dim());
  Pass pass;
  pass.questions.resize(examples.size());
  const float* query = vectors.data();
  for (size_t i = first; i < examples.size(); i += stride, query += dim) {
    std::vector<double> scores;
    for (const float* passage : examples[i].passages) {
      scores.push_back(std::inner_product(passage, passage + dim, query, 0.0));
    }
    ListwiseLoss loss = listwise_softmax_loss(scores, size_t{0}, temperature_);
    pass.measure.add(scores, loss.loss);
    for (double& gradient : loss.score_gradients) gradient /= static_cast<double>(examples.size());
    pass.questions[i] = {&examples[i].question, examples[i].passages,
                         std::move(loss.score_gradients)};
  }
  pass.measure.sum(options_.group);
  return pass;
}

StepResult ContrastiveTrainer::step(const std::vector<ContrastiveExample>& batch,
                                    double learning_rate) {
  const Pass pass = run(batch);
  StepResult result;
  result.step = steps_taken_ + 1;
  result.learning_rate = learning_rate;
  result.sequences = result.targets = static_cast<int64_t>(batch.size());
  for (const ContrastiveExample& example : batch) result.tokens += example.num_tokens;
  result.rows = result.tokens;
  result.loss = pass.measure.mean_loss();
  result.figures = pass.measure.figures();
  query_encoder_.gradients().zero();
  learn_from_scores(embedder_, pass.questions, query_encoder_, options_.group);
  sum_over_ranks(options_.group, query_encoder_.gradient_views());
  finish_step(query_encoder_, optimizer_, options_.max_grad_norm, batch.front().id, result);
  ++steps_taken_;
  return result;
}

RankingMeasure ContrastiveTrainer::evaluate(const std::vector<ContrastiveExample>& examples) const {
  return run(examples).measure;
}

}  // namespace quarry
