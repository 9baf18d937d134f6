#include "finetune/recipes/classifier_adapter.h"

#include <algorithm>

#include "data/core/error.h"
#include "finetune/recipes/encoder_shape.h"
#include "generator/nn/lora_save.h"
#include "generator/nn/lora_training.h"

namespace quarry {
namespace {

// modules_to_save has to name layers of the head alone, all of whose parameters can be trained.
void check_saved_modules(const LoraConfig& config, const SequenceClassifier& model) {
  for (const std::string& entry : config.modules_to_save()) {
    if (entry == "score") continue;  // the name of other heads, which PEFT adds as well
    const auto copies = [&entry](const std::string& name) { return saves_module(entry, name); };
    const auto& tensors = model.tensor_slots();
    const auto& linears = model.linear_slots();
    const bool of_head = std::any_of(tensors.begin(), tensors.end(),
                                     [&](const auto& slot) { return copies(slot.name); });
    const bool of_encoder = std::any_of(linears.begin(), linears.end(), [&](const auto& slot) {
      const bool is_heads = std::any_of(tensors.begin(), tensors.end(), [&](const auto& tensor) {
        return tensor.name == slot.path + ".weight";
      });
      return !is_heads && copies(slot.path + ".weight");
    });
    QUARRY_CHECK(of_head && !of_encoder, ErrorCode::kInvalidArgument,
                 "adapter.modules_to_save holds \"", entry,
                 "\", of a classifier only its head is trained whole: wanted ",
                 tensors.front().name.substr(0, tensors.front().name.rfind('.')), " or classifier");
  }
}

}  // namespace

RunAdapter make_classifier_adapter(const FinetuneConfig& config,
                                   const LoadedHead<SequenceClassifier>& base) {
  const SequenceClassifier& model = *base.model;
  RunAdapter made;
  const std::filesystem::path start = config.adapter.start_from;
  if (!start.empty()) {
    check_adapter_base(start, base.content_hash, base.name);
    made.config = std::make_unique<LoraConfig>(LoraConfig::load(start / "adapter_config.json"));
    made.adapter = LoraAdapter::load(start, model.linear_slots(), model.tensor_slots());
    return made;
  }
  LoraSettings settings = adapter_settings(config.adapter, model.linear_slots());
  settings.task_type = "SEQ_CLS";
  if (settings.base_model_name_or_path.empty()) settings.base_model_name_or_path = base.name;
  for (const char* name : {"classifier", "score"}) {  // as PEFT does for this task
    std::vector<std::string>& saved = settings.modules_to_save;
    if (std::find(saved.begin(), saved.end(), name) == saved.end()) saved.emplace_back(name);
  }
  made.config = std::make_unique<LoraConfig>(LoraConfig::from_settings(settings));
  check_saved_modules(*made.config, model);
  made.adapter = create_adapter(*made.config, model.linear_slots(), settings.init_lora_weights,
                                config.training.seed);
  for (const CausalLm::TensorSlot& slot : model.tensor_slots()) {
    if (!made.config->copies(slot.name)) continue;
    FullTensor& full = made.adapter->mutable_full()[slot.name];
    full.shape = slot.shape;
    full.use = slot.use;
    full.values = model.tensor_values(slot.name);
    full.pack();
  }
  return made;
}

TrainingShape classifier_shape(const FinetuneConfig& config,
                               const LoadedHead<SequenceClassifier>& base,
                               const LoraAdapter& adapter, const std::vector<int64_t>& tokens) {
  TrainingShape shape = encoder_shape(config, base.path, adapter, tokens);
  // PEFT's copy stands beside a head of the base, which a new one is as well.
  for (const auto& [name, full] : adapter.full()) {
    if (base.head_is_new && name.find("classifier") == 0) {
      shape.count.all += static_cast<int64_t>(full.values.size());
    }
  }
  return shape;
}

void save_classifier_adapter(const std::filesystem::path& folder,
                             const LoadedHead<SequenceClassifier>& base, const RunAdapter& trained,
                             ModelCard card) {
  card.base_model = base.name;
  card.base_model_hash = base.content_hash;
  auto& settings = card.hyperparameters;
  settings.erase(std::remove_if(settings.begin(), settings.end(),
                                [](const auto& item) { return item.first == "passages"; }),
                 settings.end());
  SaveAdapterOptions options;
  options.notes.base_content_hash = base.content_hash;
  options.notes.base_name = base.name;
  options.notes.labels = base.model->labels();
  options.model_card = model_card_markdown(card);
  save_adapter(folder, *trained.config, *trained.adapter, options);
}

}  // namespace quarry
