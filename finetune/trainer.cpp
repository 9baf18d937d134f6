#include "finetune/trainer.h"

#include <malloc.h>

#include <algorithm>
#include <cmath>

#include "data/core/error.h"

namespace quarry {
namespace {

int64_t count_targets(const TrainingSequence& sequence) {
  return std::count_if(sequence.is_target.begin(), sequence.is_target.end(),
                       [](uint8_t target) { return target != 0; });
}

}  // namespace

void keep_freed_pages() {
#ifdef M_TRIM_THRESHOLD
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
}

PassOptions pass_options(const TrainerOptions& options) {
  PassOptions passes;
  passes.max_rows = options.micro_batch_tokens;
  passes.share = options.packing;
  passes.cut_shows = options.lora_dropout > 0.0f ||
                     options.gradient.compute == GradientOptions::Compute::kBFloat16;
  passes.group = options.group;
  return passes;
}

void finish_step(TrainedAdapter& trained, Optimizer& optimizer, double max_grad_norm,
                 const std::string& first_id, StepResult& result) {
  result.gradient_norm = clip_gradients(trained.gradient_views(), max_grad_norm);
  QUARRY_CHECK(std::isfinite(result.loss) && std::isfinite(result.gradient_norm),
               ErrorCode::kInternal, "step ", result.step, ": the loss is ", result.loss,
               " and the gradient's norm ", result.gradient_norm, " (batch from '", first_id,
               "' on); the adapter is as step ", result.step - 1, " left it");
  // A training that silently learns nothing costs a night.
  const bool is_first = result.step == 1;
  const uint64_t before = is_first ? hash_of_values(trained.parameters()) : 0;
  optimizer.step(trained.parameters(), result.learning_rate);
  trained.pack();
  QUARRY_CHECK(!is_first || hash_of_values(trained.parameters()) != before, ErrorCode::kInternal,
               "after the first step the adapter is as it was before: it learns nothing (is the "
               "learning rate 0?)");
}

Trainer::Trainer(const CausalLm& model, const LoraConfig& config, LoraAdapter& adapter,
                 Optimizer& optimizer, const TrainerOptions& options)
    : model_(model), trained_(config, adapter), optimizer_(optimizer), options_(options) {
  keep_freed_pages();
  QUARRY_CHECK(options_.micro_batch_tokens > 0, ErrorCode::kInvalidArgument,
               "micro_batch_tokens is ", options_.micro_batch_tokens, ", wanted at least 1");
  take_from_rank_0(options_.group, trained_.parameters());
  trained_.pack();
}

std::vector<StepPass> Trainer::passes_of(const std::vector<TrainingSequence>& sequences,
                                         float target_weight) const {
  return make_passes(sequences, pass_options(options_), target_weight);
}

void Trainer::check_batch(const std::vector<TrainingSequence>& batch) const {
  QUARRY_CHECK(!batch.empty(), ErrorCode::kInvalidArgument, "a batch without a sequence");
  for (const TrainingSequence& sequence : batch) {
    QUARRY_CHECK(sequence.tokens.size() == sequence.is_target.size() &&
                     sequence.tokens.size() >= 2 && count_targets(sequence) > 0,
                 ErrorCode::kInvalidArgument, "sequence '", sequence.id,
                 "': none of its tokens counts in the loss (all labels are masked)");
  }
}

StepResult Trainer::step(const std::vector<TrainingSequence>& batch, double learning_rate) {
  check_batch(batch);
  StepResult result;
  result.step = steps_taken_ + 1;
  result.learning_rate = learning_rate;
  result.sequences = static_cast<int64_t>(batch.size());
  for (const TrainingSequence& sequence : batch) {
    result.tokens += sequence.num_tokens();
    result.targets += count_targets(sequence);
  }
  const float weight = static_cast<float>(1.0 / static_cast<double>(result.targets));
  LoraGradients& gradients = trained_.gradients();
  gradients.zero();
  uint64_t number = 0;
  std::vector<double> total = {0.0};
  for (const StepPass& pass : passes_of(batch, weight)) {
    result.rows += pass.rows();
    const uint64_t dropout_seed =
        options_.seed + static_cast<uint64_t>(result.step) * 1000003 + number++;
    if (!pass.is_own) continue;
    gradients.set_dropout(options_.lora_dropout, dropout_seed);
    for (const float loss :
         model_.accumulate_gradients(pass.tree, trained_.adapter(), options_.gradient, gradients)) {
      total[0] += double{loss};
    }
  }
  sum_over_ranks(options_.group, total);
  sum_over_ranks(options_.group, trained_.gradient_views());
  result.loss = total[0] / static_cast<double>(result.targets);

  finish_step(trained_, optimizer_, options_.max_grad_norm, batch.front().id, result);
  ++steps_taken_;
  return result;
}

double Trainer::evaluate(const std::vector<TrainingSequence>& sequences) const {
  check_batch(sequences);
  std::vector<double> total = {0.0};
  int64_t targets = 0;
  for (const StepPass& pass : passes_of(sequences, 1.0f)) {
    targets += static_cast<int64_t>(pass.tree.targets.size());
    if (!pass.is_own) continue;
    for (const float loss : model_.target_losses(pass.tree, &trained_.adapter())) {
      total[0] += double{loss};
    }
  }
  sum_over_ranks(options_.group, total);
  return total[0] / static_cast<double>(targets);
}

}  // namespace quarry
