#include "finetune/recipes/classifier_trainer.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "finetune/shared_step.h"

namespace quarry {
namespace {

bool says_label(const float* logits, int64_t count, int64_t label) {
  return std::max_element(logits, logits + count) - logits == label;
}

std::vector<InputGroup> groups_of(const std::vector<LabelledInput>& rows) {
  std::vector<InputGroup> groups;
  for (const LabelledInput& row : rows) groups.push_back({row.id, {row.input}});
  return groups;
}

}  // namespace

double label_loss(const float* logits, int64_t count, int64_t label, double weight,
                  float* gradient) {
  const double largest = double{*std::max_element(logits, logits + count)};
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(double{logits[i]} - largest);
  for (int64_t i = 0; i < count && gradient != nullptr; ++i) {
    const double p = std::exp(double{logits[i]} - largest) / sum;
    gradient[i] = static_cast<float>(weight * (p - (i == label ? 1.0 : 0.0)));
  }
  return std::log(sum) + largest - double{logits[label]};
}

ClassifierTrainer::ClassifierTrainer(const SequenceClassifier& model, const LoraConfig& config,
                                     LoraAdapter& adapter, Optimizer& optimizer,
                                     const TrainerOptions& options)
    : model_(model), trained_(config, adapter), optimizer_(optimizer), options_(options) {
  keep_freed_pages();
  take_from_rank_0(options_.group, trained_.parameters());
  trained_.pack();
}

// Adds the mean loss and the number of right answers to `sums`.
GroupLoss ClassifierTrainer::loss_of(const std::vector<LabelledInput>& rows,
                                     std::vector<double>& sums) const {
  return [this, &rows, &sums](size_t i, const float* logits, float* gradient) {
    const auto num_labels = static_cast<int64_t>(model_.labels().size());
    const double weight = 1.0 / static_cast<double>(rows.size());
    sums[0] += weight * label_loss(logits, num_labels, rows[i].label, weight, gradient);
    if (says_label(logits, num_labels, rows[i].label)) sums[1] += 1.0;
  };
}

StepResult ClassifierTrainer::step(const std::vector<LabelledInput>& batch, double learning_rate) {
  QUARRY_CHECK(!batch.empty(), ErrorCode::kInvalidArgument, "a batch without a text");
  StepResult result;
  result.step = steps_taken_ + 1;
  result.learning_rate = learning_rate;
  std::vector<double> sums = {0.0, 0.0};
  learn_groups(model_, groups_of(batch), loss_of(batch, sums), options_, trained_, result);
  sum_over_ranks(options_.group, sums);
  result.loss = sums[0];
  result.figures = {{"accuracy", sums[1] / static_cast<double>(batch.size())}};
  finish_step(trained_, optimizer_, options_.max_grad_norm, batch.front().id, result);
  ++steps_taken_;
  return result;
}

ClassifierTrainer::Evaluation ClassifierTrainer::evaluate(
    const std::vector<LabelledInput>& inputs) const {
  QUARRY_CHECK(!inputs.empty(), ErrorCode::kInvalidArgument, "no text to evaluate on");
  std::vector<double> sums = {0.0, 0.0};
  run_groups(model_, groups_of(inputs), loss_of(inputs, sums), options_, trained_.adapter());
  sum_over_ranks(options_.group, sums);
  return {sums[0], sums[1] / static_cast<double>(inputs.size())};
}

}  // namespace quarry
