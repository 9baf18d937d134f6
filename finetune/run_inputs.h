#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "finetune/config.h"
#include "finetune/data/group_options.h"
#include "finetune/data/render.h"
#include "finetune/data/training_set.h"
#include "finetune/recipe.h"
#include "finetune/trainer.h"
#include "generator/models/causal_lm.h"

namespace quarry {

// What a configuration says, as the parts of a run want it. All throw kInvalidArgument naming the
// field for a value that has no meaning here.

// The base model, packed as model.load_in and training.compute say. Sets the number of threads.
LoadedGenerator load_base(const FinetuneConfig& config);
// As training.compute says: exact for "f32".
kernels::Precision compute_precision(const FinetuneConfig& config);
RenderOptions render_options(const FinetuneConfig& config, const CausalLm& model);
GroupOptions group_options(const FinetuneConfig& config);
TrainerOptions trainer_options(const DataInputs& inputs);
// Throws as read_training_set().
TrainingSet read_set(const DataOptions& data, const std::vector<std::string>& paths);
// Takes data.eval_share of the rows out of `set`, drawn by training.seed. Throws kInvalidArgument
// when none would be left to learn.
TrainingSet hold_out(const FinetuneConfig& config, TrainingSet& set);
// At most data.max_eval_examples rows of data.eval or, without it, those held out; nothing when
// there are neither.
std::optional<TrainingSet> evaluation_set(const DataInputs& inputs);
// Keeps `limit` rows drawn by `seed`; 0: all. Rows of one document stand side by side in most
// files, so the first ones would not do.
void limit_rows(int64_t limit, uint64_t seed, TrainingSet& set);

}  // namespace quarry
