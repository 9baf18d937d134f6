#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "finetune/checkpoint.h"
#include "finetune/config.h"
#include "finetune/data/render.h"
#include "finetune/data/sequence.h"
#include "finetune/data/summary.h"
#include "finetune/data/training_set.h"
#include "finetune/estimate.h"
#include "finetune/model_card.h"
#include "finetune/trainer.h"
#include "generator/models/causal_lm.h"

namespace quarry {

// What every recipe starts from. Borrowed by it.
struct DataInputs {
  const FinetuneConfig& config;  // batch_size and epochs are not 0
  const TrainingSet& train_set;
  const TrainingSet& held_out;    // data.eval_share: rows that are evaluated on; may be empty
  int64_t batch_size = 0;         // sequences of one optimizer step, those of all processes
  ProcessGroup* group = nullptr;  // that trains together; null: this process alone
};

// The same of one that trains a generator.
struct RunInputs : DataInputs {
  RunInputs(const DataInputs& data, const LoadedGenerator& with_base,
            const SequenceRenderer& with_renderer)
      : DataInputs(data), base(with_base), renderer(with_renderer) {}
  const LoadedGenerator& base;
  const SequenceRenderer& renderer;
};

// PEFT folders that were written; empty paths for what is not trained.
struct SavedAdapters {
  std::filesystem::path generator;
  std::filesystem::path query_encoder;
};

// How one kind of training gets its batches and learns them; FinetuneRun does the rest. One thread.
class Recipe {
 public:
  virtual ~Recipe() = default;

  // Sequences that an epoch gives, as far as that can be told beforehand.
  virtual double sequences_per_epoch() const = 0;
  virtual int64_t epoch() const = 0;
  // Part of the epoch that is used up, 0 to 1.
  virtual double epoch_progress() const = 0;
  // Takes the next batch. False, with nothing taken, when `may_take` says no before it is begun, or
  // there is nothing left to take; the data begin anew as often as needed.
  virtual bool take_batch(const std::function<bool()>& may_take) = 0;
  // Learns it. Throws as Trainer::step(), with the batch put back.
  virtual StepResult learn_batch(double learning_rate) = 0;
  // The first sequences of the batch that was taken, for people.
  virtual std::vector<std::string> examples(size_t most) const = 0;
  virtual const std::string& base_name() const = 0;
  // Mean loss over data.eval, without learning; nothing when there are none. `figures` gets what
  // else was measured.
  virtual std::optional<double> evaluate(std::vector<std::pair<std::string, double>>& figures) = 0;

  virtual int64_t steps_taken() const = 0;
  virtual const DataSummary& summary() const = 0;
  // Of the batch that was taken.
  virtual TrainingShape shape() const = 0;
  // Something about the run that its user should know, a line each.
  virtual std::vector<std::string> notices() const = 0;

  // `folder` for the generator's adapter, `folder`-query-encoder for the query encoder's. The card
  // lacks what is the adapter's own: title and base.
  virtual SavedAdapters save_adapters(const std::filesystem::path& folder,
                                      const ModelCard& card) const = 0;
  // What makes the adapters usable when something has to be done first: a command; else empty.
  virtual std::string next_command(const SavedAdapters&) const { return ""; }
  // Parameters, optimizer and place in the data, and back. restore() throws kCorruptData naming
  // `source`.
  virtual void save(Checkpoint& checkpoint) = 0;
  virtual void restore(const Checkpoint& checkpoint, const std::string& source) = 0;
};

// Those of a generator, by config.recipe. Throw as FinetuneRun's constructor.
std::unique_ptr<Recipe> make_recipe(const RunInputs& inputs);
// Those of an encoder alone, with training.threads set; null for another recipe. Throws likewise.
std::unique_ptr<Recipe> make_encoder_recipe(const DataInputs& inputs);
// recipes/: supervised fine-tuning of the generator on given answers.
std::unique_ptr<Recipe> make_sft_recipe(const RunInputs& inputs);
// recipes/: an encoder learns the labels of texts.
std::unique_ptr<Recipe> make_classification_recipe(const DataInputs& inputs);
// recipes/: the query encoder learns to find the passages that answer.
std::unique_ptr<Recipe> make_contrastive_recipe(const DataInputs& inputs);
// recipes/: a cross-encoder learns to put the passages that answer first.
std::unique_ptr<Recipe> make_reranker_recipe(const DataInputs& inputs);
// recipes/: the answer's likelihood over latent passages trains generator and query encoder.
std::unique_ptr<Recipe> make_rag_recipe(const RunInputs& inputs);

}  // namespace quarry
