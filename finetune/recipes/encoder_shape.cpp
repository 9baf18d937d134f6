#include "finetune/recipes/encoder_shape.h"

#include <algorithm>

#include "data/core/json.h"
#include "data/core/parallel_for.h"
#include "generator/models/config_values.h"
#include "generator/weights/model_catalog.h"

namespace quarry {

void count_adapter(const LoraAdapter& adapter, TrainingShape& shape) {
  const auto count = [&shape](const std::vector<float>& values) {
    const auto size = static_cast<int64_t>(values.size());
    shape.count.trainable += size;
    shape.packed_parameters += size;
    if (size >= kMinElementsFor8bit) shape.count.in_large_tensors += size;
  };
  for (const auto& [path, pair] : adapter.weights()) {
    count(pair.a);
    count(pair.b);
  }
  for (const auto& [name, full] : adapter.full()) count(full.values);
}

TrainingShape encoder_shape(const FinetuneConfig& config, const std::string& path,
                            const LoraAdapter& adapter, const std::vector<int64_t>& tokens) {
  const ModelInfo info = describe_model(resolve_model(path));
  const std::filesystem::path config_path = std::filesystem::path(path) / "config.json";
  const Json json = read_json_file(config_path);
  const ConfigValues values(json, config_path.string());
  TrainingShape shape;
  shape.model.num_layers = values.size("num_hidden_layers");
  shape.model.hidden_size = values.size("hidden_size");
  shape.model.intermediate_size = values.size("intermediate_size");
  shape.model.vocab_size = values.size("vocab_size");
  shape.model.num_parameters = info.parameters;
  shape.q_width = shape.kv_width = shape.model.hidden_size;
  shape.base_bytes = config.training.compute == "f32" ? 4 * info.parameters : info.weight_bytes;
  count_adapter(adapter, shape);
  shape.count.all += info.parameters + shape.count.trainable;
  for (const int64_t count : tokens) shape.tokens = std::max(shape.tokens, count);
  const auto in_batch = static_cast<int64_t>(tokens.size());
  shape.tokens =
      std::max(shape.tokens, std::min(config.training.micro_batch_tokens, in_batch * shape.tokens));
  shape.is_exact = true;
  shape.checkpointing = false;
  shape.optimizer = config.training.optimizer;
  shape.threads = num_threads();
  return shape;
}

}  // namespace quarry
