#include "finetune/recipe.h"

#include "data/core/error.h"
#include "data/core/parallel_for.h"

namespace quarry {
namespace {

// A recipe that names a kind of model is for that kind.
void check_kind(const RunInputs& inputs) {
  const bool has_encoder = inputs.base.model->config().has_encoder();
  const std::string& recipe = inputs.config.recipe;
  QUARRY_CHECK(recipe != "causal-lm" || !has_encoder, ErrorCode::kInvalidArgument,
               "recipe is causal-lm and ", inputs.base.name,
               " an encoder-decoder, wanted recipe seq2seq");
  QUARRY_CHECK(recipe != "seq2seq" || has_encoder, ErrorCode::kInvalidArgument,
               "recipe is seq2seq and ", inputs.base.name,
               " has no encoder, wanted recipe causal-lm");
}

void check_rows(const RunInputs& inputs) {
  for (const TrainingRow& row : inputs.train_set.rows) {
    QUARRY_CHECK(row.kind != TrainingRow::Kind::kLabelled, ErrorCode::kInvalidArgument, row.where,
                 ": row ", row.id, " is a text with a label, which recipe ", inputs.config.recipe,
                 " does not learn, wanted recipe classification");
  }
}

}  // namespace

std::unique_ptr<Recipe> make_encoder_recipe(const DataInputs& inputs) {
  const FinetuneConfig& config = inputs.config;
  if (!config.is_of_encoder()) return nullptr;
  if (config.training.threads > 0) set_num_threads(static_cast<int>(config.training.threads));
  if (config.recipe == "classification") return make_classification_recipe(inputs);
  return config.recipe == "contrastive" ? make_contrastive_recipe(inputs)
                                        : make_reranker_recipe(inputs);
}

std::unique_ptr<Recipe> make_recipe(const RunInputs& inputs) {
  check_kind(inputs);
  check_rows(inputs);
  return inputs.config.is_rag() ? make_rag_recipe(inputs) : make_sft_recipe(inputs);
}

}  // namespace quarry
