#include "finetune/recipe.h"

namespace quarry {

std::unique_ptr<Recipe> make_recipe(const RunInputs& inputs) {
  return inputs.config.recipe == "sft" ? make_sft_recipe(inputs) : make_rag_recipe(inputs);
}

}  // namespace quarry
