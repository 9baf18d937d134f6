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

// Inputs that are computed together, and who does it.
struct InputPass {
  size_t first = 0;
  std::vector<EncoderInput> inputs;
  int64_t tokens = 0;
  bool is_own = true;

  int64_t rows() const { return tokens; }
};

std::vector<InputPass> cut_passes(const std::vector<LabelledInput>& batch, int64_t max_tokens) {
  std::vector<InputPass> passes;
  for (size_t i = 0; i < batch.size(); ++i) {
    if (passes.empty() || passes.back().tokens + batch[i].num_tokens() > max_tokens) {
      passes.emplace_back();
      passes.back().first = i;
    }
    passes.back().inputs.push_back(batch[i].input);
    passes.back().tokens += batch[i].num_tokens();
  }
  return passes;
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

StepResult ClassifierTrainer::step(const std::vector<LabelledInput>& batch, double learning_rate) {
  QUARRY_CHECK(!batch.empty(), ErrorCode::kInvalidArgument, "a batch without a text");
  StepResult result;
  result.step = steps_taken_ + 1;
  result.learning_rate = learning_rate;
  result.sequences = result.targets = static_cast<int64_t>(batch.size());
  const auto num_labels = static_cast<int64_t>(model_.labels().size());
  const double weight = 1.0 / static_cast<double>(batch.size());
  LoraGradients& gradients = trained_.gradients();
  gradients.zero();
  uint64_t number = 0;
  std::vector<double> sums = {0.0, 0.0};  // loss, inputs that are right
  const auto cut = [&](int64_t max_tokens) { return cut_passes(batch, max_tokens); };
  for (const InputPass& pass : cut_for_ranks(pass_options(options_), cut)) {
    result.tokens += pass.tokens;
    const uint64_t dropout_seed =
        options_.seed + static_cast<uint64_t>(result.step) * 1000003 + number++;
    if (!pass.is_own) continue;
    gradients.set_dropout(options_.lora_dropout, dropout_seed);
    const auto loss = [&](size_t i, const float* logits, float* gradient) {
      const int64_t label = batch[pass.first + i].label;
      sums[0] += weight * label_loss(logits, num_labels, label, weight, gradient);
      if (says_label(logits, num_labels, label)) sums[1] += 1.0;
    };
    model_.accumulate_gradients(trained_.adapter(), pass.inputs, loss, gradients);
  }
  sum_over_ranks(options_.group, sums);
  sum_over_ranks(options_.group, trained_.gradient_views());
  result.loss = sums[0];
  result.rows = result.tokens;
  result.figures = {{"accuracy", sums[1] * weight}};

  finish_step(trained_, optimizer_, options_.max_grad_norm, batch.front().id, result);
  ++steps_taken_;
  return result;
}

ClassifierTrainer::Evaluation ClassifierTrainer::evaluate(
    const std::vector<LabelledInput>& inputs) const {
  QUARRY_CHECK(!inputs.empty(), ErrorCode::kInvalidArgument, "no text to evaluate on");
  const auto own = static_cast<size_t>(rank_of(options_.group));
  const auto stride = static_cast<size_t>(num_ranks(options_.group));
  std::vector<EncoderInput> texts;
  for (size_t i = own; i < inputs.size(); i += stride) texts.push_back(inputs[i].input);
  const std::vector<float> logits = model_.logits(texts, &trained_.adapter());
  const auto num_labels = static_cast<int64_t>(model_.labels().size());
  std::vector<double> sums = {0.0, 0.0};  // loss, inputs that are right
  for (size_t i = 0; i < texts.size(); ++i) {
    const float* row = logits.data() + static_cast<int64_t>(i) * num_labels;
    const int64_t label = inputs[own + i * stride].label;
    sums[0] += label_loss(row, num_labels, label, 1.0, nullptr);
    if (says_label(row, num_labels, label)) sums[1] += 1.0;
  }
  sum_over_ranks(options_.group, sums);
  Evaluation evaluation;
  evaluation.loss = sums[0] / static_cast<double>(inputs.size());
  evaluation.accuracy = sums[1] / static_cast<double>(inputs.size());
  return evaluation;
}

}  // namespace quarry
