#include "finetune/recipes/query_adapter.h"

#include "data/core/error.h"
#include "finetune/shared_step.h"
#include "generator/nn/lora_save.h"

namespace quarry {

RunAdapter make_query_adapter(const FinetuneConfig& config, const LoadedEncoder& encoder,
                              bool trains) {
  const QueryEncoderOptions& options = config.query_encoder;
  const auto& slots = encoder.model->linear_slots();
  RunAdapter made;
  if (!options.start_from.empty()) {
    const std::filesystem::path start = options.start_from;
    check_adapter_base(start, encoder.content_hash, encoder.name);
    made.config = std::make_unique<LoraConfig>(LoraConfig::load(start / "adapter_config.json"));
    made.adapter = LoraAdapter::load(start, slots, {});
  } else if (trains) {
    LoraSettings settings;
    settings.r = options.r;
    settings.lora_alpha = options.lora_alpha;
    settings.target_all_linear = true;
    settings.exclude_modules = {"pooler.dense"};
    settings.task_type = "FEATURE_EXTRACTION";
    settings.base_model_name_or_path = encoder.name;
    made.config = std::make_unique<LoraConfig>(LoraConfig::from_settings(settings));
    made.adapter = create_adapter(*made.config, slots, "true", config.training.seed);
  }
  return made;
}

std::unique_ptr<TrainedAdapter> make_trained_query_adapter(const FinetuneConfig& config,
                                                           const RunAdapter& adapter) {
  auto trained =
      std::make_unique<TrainedAdapter>(*adapter.config, *adapter.adapter, "query_encoder.");
  trained->set_learning_rate_scale(config.query_encoder.learning_rate /
                                   config.training.learning_rate);
  return trained;
}

void save_query_adapter(const std::filesystem::path& folder, const FinetuneConfig& config,
                        const Embedder& embedder, const RunAdapter& adapter, ModelCard card,
                        const Hyperparameters& more) {
  const QueryEncoderOptions& options = config.query_encoder;
  card.title = "LoRA adapter of the query encoder for " + embedder.name();
  card.base_model = embedder.name();
  card.base_model_hash = embedder.content_hash();
  card.pipeline_tag = "feature-extraction";
  card.tags = {"lora", "feature-extraction", "rag"};
  card.description += " For questions alone: passages are embedded without it.";
  card.hyperparameters = {{"r", std::to_string(options.r)},
                          {"lora_alpha", concat(options.lora_alpha)},
                          {"learning_rate", concat(options.learning_rate)}};
  card.hyperparameters.insert(card.hyperparameters.end(), more.begin(), more.end());
  SaveAdapterOptions save;
  save.notes.base_content_hash = embedder.content_hash();
  save.notes.base_name = embedder.name();
  save.model_card = model_card_markdown(card);
  save_adapter(folder, *adapter.config, *adapter.adapter, save);
}

void learn_from_scores(const Embedder& embedder, const std::vector<ScoredQuestion>& questions,
                       TrainedAdapter& query_encoder, ProcessGroup* group) {
  const auto dim = static_cast<size_t>(embedder.dim());
  const auto first = static_cast<size_t>(rank_of(group));
  const auto stride = static_cast<size_t>(num_ranks(group));
  std::vector<std::string> texts;
  std::vector<float> vector_gradients;
  for (size_t i = first; i < questions.size(); i += stride) {
    texts.push_back(*questions[i].question);
    vector_gradients.resize(texts.size() * dim);
    float* out = vector_gradients.data() + (texts.size() - 1) * dim;
    for (size_t z = 0; z < questions[i].score_gradients.size(); ++z) {
      const auto factor = static_cast<float>(questions[i].score_gradients[z]);
      const float* passage = questions[i].passage_vectors[z];
      for (size_t d = 0; d < dim; ++d) out[d] += factor * passage[d];
    }
  }
  if (!texts.empty()) {
    embedder.accumulate_query_gradients(texts, vector_gradients.data(), query_encoder.gradients());
  }
  sum_over_ranks(group, query_encoder.gradient_views());
}

}  // namespace quarry
