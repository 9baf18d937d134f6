#include "finetune/recipes/classifier_trainer.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"

namespace quarry {
namespace {

bool says_label(const float* logits, int64_t count, int64_t label) {
  return std::max_element(logits, logits + count) - logits == label;
}

// The inputs that fit one pass, from `first` on.
std::vector<EncoderInput> next_pass(const std::vector<LabelledInput>& batch, size_t first,
                                    int64_t max_tokens) {
  std::vector<EncoderInput> pass;
  int64_t tokens = 0;
  for (size_t i = first; i < batch.size(); ++i) {
    tokens += batch[i].num_tokens();
    if (i > first && tokens > max_tokens) break;
    pass.push_back(batch[i].input);
  }
  return pass;
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
  uint64_t pass = 0;
  int64_t right = 0;
  for (size_t first = 0; first < batch.size();) {
    const auto inputs = next_pass(batch, first, options_.micro_batch_tokens);
    gradients.set_dropout(options_.lora_dropout,
                          options_.seed + static_cast<uint64_t>(result.step) * 1000003 + pass++);
    const auto loss = [&](size_t i, const float* logits, float* gradient) {
      const int64_t label = batch[first + i].label;
      result.loss += weight * label_loss(logits, num_labels, label, weight, gradient);
      if (says_label(logits, num_labels, label)) ++right;
    };
    model_.accumulate_gradients(trained_.adapter(), inputs, loss, gradients);
    for (const EncoderInput& input : inputs) {
      result.tokens += static_cast<int64_t>(input.ids.size());
    }
    first += inputs.size();
  }
  result.rows = result.tokens;
  result.figures = {{"accuracy", static_cast<double>(right) * weight}};

  finish_step(trained_, optimizer_, options_.max_grad_norm, batch.front().id, result);
  ++steps_taken_;
  return result;
}

ClassifierTrainer::Evaluation ClassifierTrainer::evaluate(
    const std::vector<LabelledInput>& inputs) const {
  QUARRY_CHECK(!inputs.empty(), ErrorCode::kInvalidArgument, "no text to evaluate on");
  std::vector<EncoderInput> texts;
  texts.reserve(inputs.size());
  for (const LabelledInput& input : inputs) texts.push_back(input.input);
  const std::vector<float> logits = model_.logits(texts, &trained_.adapter());
  const auto num_labels = static_cast<int64_t>(model_.labels().size());
  Evaluation evaluation;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const float* row = logits.data() + static_cast<int64_t>(i) * num_labels;
    evaluation.loss += label_loss(row, num_labels, inputs[i].label, 1.0, nullptr);
    if (says_label(row, num_labels, inputs[i].label)) evaluation.accuracy += 1.0;
  }
  evaluation.loss /= static_cast<double>(inputs.size());
  evaluation.accuracy /= static_cast<double>(inputs.size());
  return evaluation;
}

}  // namespace quarry
