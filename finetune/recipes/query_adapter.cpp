#include "finetune/recipes/query_adapter.h"

#include "data/core/error.h"
#include "finetune/shared_step.h"
#include "generator/nn/lora_save.h"
#include "retriever/index_embedder.h"

namespace quarry {

namespace {

RunAdapter load_adapter(const std::filesystem::path& folder, const LoadedEncoder& encoder) {
  check_adapter_base(folder, encoder.content_hash, encoder.name);
  RunAdapter loaded;
  loaded.config = std::make_unique<LoraConfig>(LoraConfig::load(folder / "adapter_config.json"));
  loaded.adapter = LoraAdapter::load(folder, encoder.model->linear_slots(), {});
  return loaded;
}

RunAdapter fresh_adapter(const FinetuneConfig& config, const LoadedEncoder& encoder) {
  LoraSettings settings;
  settings.r = config.query_encoder.r;
  settings.lora_alpha = config.query_encoder.lora_alpha;
  settings.target_all_linear = true;
  settings.exclude_modules = {"pooler.dense"};
  settings.task_type = "FEATURE_EXTRACTION";
  settings.base_model_name_or_path = encoder.name;
  RunAdapter made;
  made.config = std::make_unique<LoraConfig>(LoraConfig::from_settings(settings));
  made.adapter =
      create_adapter(*made.config, encoder.model->linear_slots(), "true", config.training.seed);
  return made;
}

}  // namespace

QueryEncoder load_query_encoder(const FinetuneConfig& config, const std::string& model, bool trains,
                                kernels::Precision precision) {
  LoadedEncoder encoder = load_text_encoder(model, precision);
  const std::filesystem::path start = config.query_encoder.start_from;
  const std::filesystem::path index = index_adapter(config.passages.index);
  std::shared_ptr<const LoraAdapter> of_index;
  QueryEncoder loaded;
  if (!index.empty()) {
    loaded.adapter = load_adapter(index, encoder);
    of_index = std::make_shared<const LoraAdapter>(*loaded.adapter.adapter);
  }
  loaded.path = encoder.path;
  if (!start.empty()) {
    loaded.adapter = load_adapter(start, encoder);
    loaded.index_is_stale =
        of_index == nullptr || of_index->content_hash() != loaded.adapter.adapter->content_hash();
  } else if (trains && of_index == nullptr) {
    loaded.adapter = fresh_adapter(config, encoder);
  }
  loaded.embedder = std::make_shared<Embedder>(std::move(encoder), loaded.adapter.adapter,
                                               std::nullopt, of_index);
  return loaded;
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
  const OrderedJson& settings = adapter.config->json();
  const bool embeds_passages = config.rag.train_passage_encoder;
  card.title = concat("LoRA adapter of the ", embeds_passages ? "" : "query ", "encoder for ",
                      embedder.name());
  card.base_model = embedder.name();
  card.base_model_hash = embedder.base_hash();
  card.pipeline_tag = "feature-extraction";
  card.tags = {"lora", "feature-extraction", "rag"};
  card.description += embeds_passages ? " For questions and passages: an index is embedded with it."
                                      : " For questions alone: passages are embedded without it.";
  card.hyperparameters = {{"r", dump_json(settings["r"])},
                          {"lora_alpha", dump_json(settings["lora_alpha"])},
                          {"learning_rate", concat(config.query_encoder.learning_rate)}};
  card.hyperparameters.insert(card.hyperparameters.end(), more.begin(), more.end());
  SaveAdapterOptions save;
  save.notes.base_content_hash = embedder.base_hash();
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
  if (texts.empty()) return;
  embedder.accumulate_query_gradients(texts, vector_gradients.data(), query_encoder.gradients());
}

}  // namespace quarry
