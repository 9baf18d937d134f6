#include "finetune/recipes/reranker_trainer.h"

#include "data/core/error.h"
#include "finetune/loss/listwise_softmax.h"
#include "finetune/shared_step.h"

namespace quarry {
namespace {

GroupLoss ranking_loss(const std::vector<InputGroup>& questions, RankingMeasure& measure) {
  QUARRY_CHECK(!questions.empty(), ErrorCode::kInvalidArgument, "a batch without a question");
  return [&questions, &measure](size_t i, const float* logits, float* gradients) {
    const std::vector<double> scores(logits, logits + questions[i].inputs.size());
    const ListwiseLoss loss = listwise_softmax_loss(scores, size_t{0}, 1.0);
    measure.add(scores, loss.loss);
    for (size_t z = 0; gradients != nullptr && z < scores.size(); ++z) {
      gradients[z] =
          static_cast<float>(loss.score_gradients[z] / static_cast<double>(questions.size()));
    }
  };
}

// A head's last bias moves all logits alike, which a softmax does not see: its gradient is
// rounding, which Adam would scale up to steps as large as any other's.
void clear_output_bias(LoraGradients& gradients) {
  for (auto& [name, gradient] : gradients.full()) {
    if (gradient.size() == 1) gradient[0] = 0.0f;
  }
}

}  // namespace

RerankerTrainer::RerankerTrainer(const SequenceClassifier& model, const LoraConfig& config,
                                 LoraAdapter& adapter, Optimizer& optimizer,
                                 const TrainerOptions& options)
    : model_(model), trained_(config, adapter), optimizer_(optimizer), options_(options) {
  keep_freed_pages();
  take_from_rank_0(options_.group, trained_.parameters());
  trained_.pack();
}

StepResult RerankerTrainer::step(const std::vector<InputGroup>& batch, double learning_rate) {
  RankingMeasure measure;
  const GroupLoss loss = ranking_loss(batch, measure);
  StepResult result;
  result.step = steps_taken_ + 1;
  result.learning_rate = learning_rate;
  learn_groups(model_, batch, loss, options_, trained_, result);
  clear_output_bias(trained_.gradients());
  measure.sum(options_.group);
  result.loss = measure.mean_loss();
  result.figures = measure.figures();
  finish_step(trained_, optimizer_, options_.max_grad_norm, batch.front().id, result);
  ++steps_taken_;
  return result;
}

RankingMeasure RerankerTrainer::evaluate(const std::vector<InputGroup>& questions) const {
  RankingMeasure measure;
  run_groups(model_, questions, ranking_loss(questions, measure), options_, trained_.adapter());
  measure.sum(options_.group);
  return measure;
}

}  // namespace quarry
