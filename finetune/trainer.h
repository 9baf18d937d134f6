#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/distributed/process_group.h"
#include "finetune/data/sequence.h"
#include "finetune/optimizer.h"
#include "finetune/shared_step.h"
#include "finetune/trained_adapter.h"
#include "generator/models/causal_lm.h"

namespace quarry {

struct TrainerOptions {
  int64_t micro_batch_tokens = 1024;  // rows of one pass: memory grows with it, results do not
  bool packing = true;                // beginnings that sequences share are computed once
  GradientOptions gradient;
  double max_grad_norm = 1.0;  // 0: no clipping
  float lora_dropout = 0.0f;
  uint64_t seed = 0;  // of the dropout
  // Those that learn the same batches together, borrowed; null: this process alone. A step is then
  // what it would be here alone, but for the order of additions.
  ProcessGroup* group = nullptr;
};

// What one optimizer step did.
struct StepResult {
  int64_t step = 0;   // counted from 1
  double loss = 0.0;  // mean negative log-likelihood of the targets, in nats, before the step
  double gradient_norm = 0.0;  // before clipping
  double learning_rate = 0.0;
  int64_t sequences = 0;
  int64_t tokens = 0;   // of the sequences
  int64_t rows = 0;     // computed for them: fewer where beginnings are shared
  int64_t targets = 0;  // tokens that count in the loss
  std::vector<std::pair<std::string, double>> figures;  // what else the recipe measured
  std::string warning;                                  // something is going wrong; else empty
  std::string stop;                                     // why the run must not go on; else empty
};

// Makes the allocator keep what is freed: a pass asks for as much memory as the one before, and
// pages that go back to the system in between are cleared and mapped again, for 3 % of the time.
void keep_freed_pages();

// How the passes of a step are made and shared.
PassOptions pass_options(const TrainerOptions& options);

// The end of a step whose loss and gradients are there: clips them and moves the adapter. Throws
// kInternal, with the adapter as it was before, when loss or gradient is not finite, naming the
// step and `first_id`, the first of its batch; kInternal when the first step moved nothing.
void finish_step(TrainedAdapter& trained, Optimizer& optimizer, double max_grad_norm,
                 const std::string& first_id, StepResult& result);

// Trains all that one adapter has on a frozen model. A step's gradient is that of the mean loss
// over all of its targets, however the batch is cut into passes. One thread.
class Trainer {
 public:
  // All borrowed. `config` says under which names PEFT stores what the adapter has.
  Trainer(const CausalLm& model, const LoraConfig& config, LoraAdapter& adapter,
          Optimizer& optimizer, const TrainerOptions& options);

  // One optimizer step on `batch`. Throws kInvalidArgument: no sequence, or one without a target,
  // naming it; kInternal, with the adapter as it was before, when loss or gradient is not finite,
  // naming the step and the first sequence of the pass; kInternal when the first step moved
  // nothing.
  StepResult step(const std::vector<TrainingSequence>& batch, double learning_rate);
  // Mean loss over all targets, without learning. Throws kInvalidArgument for an empty set. Both
  // throw LostRankError.
  double evaluate(const std::vector<TrainingSequence>& sequences) const;

  int64_t steps_taken() const { return steps_taken_; }
  void set_steps_taken(int64_t steps) { steps_taken_ = steps; }
  // After the values of parameters() were changed: what the kernels read follows them.
  void pack() { trained_.pack(); }
  // What is trained, as TrainedAdapter.
  std::vector<ParameterView> parameters() { return trained_.parameters(); }

 private:
  void check_batch(const std::vector<TrainingSequence>& batch) const;
  std::vector<StepPass> passes_of(const std::vector<TrainingSequence>& sequences,
                                  float target_weight) const;

  const CausalLm& model_;
  TrainedAdapter trained_;
  Optimizer& optimizer_;
  TrainerOptions options_;
  int64_t steps_taken_ = 0;
};

}  // namespace quarry
