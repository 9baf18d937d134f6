#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/core/cancel.h"
#include "data/distributed/process_group.h"
#include "finetune/config.h"
#include "finetune/data/summary.h"
#include "finetune/plan.h"
#include "finetune/trainer.h"

namespace quarry {

// What a run reports while it goes.
struct FinetuneEvents {
  const CancelFlag* cancel = nullptr;  // polled between steps
  // After every optimizer step; `num_steps` is the plan for the whole run, and the last one when
  // the data end earlier.
  std::function<void(const StepResult& result, int64_t num_steps, double tokens_per_second)>
      on_step;
  std::function<void(const std::string& line)> note;  // one line about what happened
};

struct FinetuneOutcome {
  int64_t steps = 0;
  double seconds = 0.0;                                      // of this process
  double train_loss = 0.0;                                   // mean of the last 50 steps
  double best_eval_loss = 0;                                 // 0: not evaluated
  std::vector<std::pair<std::string, double>> eval_figures;  // else of the last evaluation
  DataSummary data;
  // PEFT folders; empty for what is not trained. The best by evaluation loss, the last without an
  // evaluation.
  std::filesystem::path last_adapter;
  std::filesystem::path best_adapter;
  std::filesystem::path last_query_adapter;
  std::filesystem::path best_query_adapter;
  std::string next_command;  // that has to be run before the best adapters serve; empty: none
};

// One fine-tuning run in its folder:
//   config.yaml  environment.json  metrics.jsonl  events.out.tfevents.*  loss_curve.svg
//   checkpoint-<step>/  last/  best/       (adapters in PEFT's format, with a model card)
//   last-query-encoder/  best-query-encoder/
// One thread.
class FinetuneRun {
 public:
  // Loads model, data and index. `group`, borrowed, trains the run together: each of its processes
  // makes a run of the same configuration and calls the same. A step's batch is then
  // training.batch_size sequences for each of them, dealt out, and rank 0 alone writes. Throws what
  // reading throws; kInvalidArgument for options that contradict each other, or other processes'.
  explicit FinetuneRun(const FinetuneConfig& config, ProcessGroup* group = nullptr);
  ~FinetuneRun();
  FinetuneRun(const FinetuneRun&) = delete;
  FinetuneRun& operator=(const FinetuneRun&) = delete;

  // A dry run: takes a step that leaves nothing.
  FinetunePlan plan();

  // Trains to the end. `resume` continues from the latest checkpoint in the folder bit for bit, or
  // starts when there is none; without it a folder that holds a run is refused. Throws
  // kUnavailable "...: cancelled" after writing a checkpoint; what Trainer throws, after writing
  // the state before that step; LostRankError, which says where to go on from. Another number of
  // processes may resume when the batch of all together is the same.
  FinetuneOutcome train(bool resume, const FinetuneEvents& events);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quarry
