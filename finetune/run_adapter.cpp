#include "finetune/run_adapter.h"

#include <algorithm>
#include <filesystem>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "finetune/packer.h"
#include "generator/adapters/model_file.h"
#include "generator/nn/lora_init.h"
#include "generator/nn/lora_save.h"
#include "generator/weights/model_catalog.h"

namespace quarry {
namespace {

BaseWeights base_weights(const ModelInfo& info) {
  const auto file = ModelFile::open(info.location);
  BaseWeights weights;
  weights.file_bytes = info.weight_bytes;
  for (const ModelLayout::Linear& linear : file->layout().linears) {
    const TensorView& weight = file->weight(linear);
    weights.linear_file_bytes += weight.bytes;
    weights.linear_values += weight.num_elements();
  }
  weights.other_values = info.parameters - weights.linear_values;
  return weights;
}

void count_parameters(const RunAdapter& adapter, int64_t base_parameters, TrainingShape& shape) {
  int64_t in_base = 0;
  const auto train = [&](const std::vector<float>& values, bool packed) {
    const auto size = static_cast<int64_t>(values.size());
    shape.count.trainable += size;
    if (size >= kMinElementsFor8bit) shape.count.in_large_tensors += size;
    if (packed) shape.packed_parameters += size;
    return size;
  };
  for (const auto& [path, pair] : adapter.adapter->weights()) {
    const int64_t size = train(pair.a, true) + train(pair.b, true);
    if (pair.start != nullptr) shape.start_parameters += size;
  }
  for (const auto& [name, full] : adapter.adapter->full()) {
    const int64_t size = train(full.values, full.packed != nullptr);
    if (!adapter.config->copies(name)) in_base += size;
  }
  shape.count.all = base_parameters + shape.count.trainable - in_base;
}

std::vector<StateTensor> to_state(const std::vector<ParameterView>& parameters) {
  std::vector<StateTensor> tensors;
  for (const ParameterView& parameter : parameters) {
    StateTensor tensor;
    tensor.name = parameter.name;
    tensor.shape = {parameter.size};
    const auto* bytes = reinterpret_cast<const uint8_t*>(parameter.value);
    tensor.bytes.assign(bytes, bytes + parameter.size * 4);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void from_state(const std::vector<StateTensor>& tensors, const std::string& source,
                const std::vector<ParameterView>& parameters) {
  for (const ParameterView& parameter : parameters) {
    const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const StateTensor& tensor) {
      return tensor.name == parameter.name;
    });
    QUARRY_CHECK(
        found != tensors.end() && found->bytes.size() == static_cast<size_t>(parameter.size) * 4,
        ErrorCode::kCorruptData, source, ": parameter ", parameter.name,
        " is missing or of another size than this configuration's");
    std::copy(found->bytes.begin(), found->bytes.end(),
              reinterpret_cast<uint8_t*>(parameter.value));
  }
}

// Where PiSSA's pairs started. A decomposition computed again may differ in its last bits.
std::vector<ParameterView> start_parameters(LoraWeights& start, const std::string& path) {
  const std::string prefix = "base_model.model." + path;
  return {
      {prefix + ".lora_A.start", start.a.data(), nullptr, static_cast<int64_t>(start.a.size())},
      {prefix + ".lora_B.start", start.b.data(), nullptr, static_cast<int64_t>(start.b.size())}};
}

void save_start(const LoraAdapter& adapter, std::vector<StateTensor>& state) {
  for (const auto& [path, pair] : adapter.weights()) {
    if (pair.start == nullptr) continue;
    LoraWeights start = *pair.start;
    for (StateTensor& tensor : to_state(start_parameters(start, path))) {
      state.push_back(std::move(tensor));
    }
  }
}

void restore_start(const std::vector<StateTensor>& state, const std::string& source,
                   LoraAdapter& adapter) {
  for (auto& [path, pair] : adapter.mutable_weights()) {
    if (pair.start == nullptr) continue;
    LoraWeights start = *pair.start;
    from_state(state, source, start_parameters(start, path));
    start.pack();
    pair.start = std::make_shared<const LoraWeights>(std::move(start));
  }
}

// PEFT's constants by family, which the names of their modules tell apart.
const std::vector<std::vector<std::string>>& family_targets() {
  static const std::vector<std::vector<std::string>> targets = {
      {"q_proj", "v_proj"}, {"query_key_value"}, {"c_attn"},
      {"q", "v"},           {"qkv_proj"},        {"query", "value"}};
  return targets;
}

bool has_module(const std::vector<CausalLm::LinearSlot>& slots, const std::string& name) {
  return std::any_of(slots.begin(), slots.end(), [&](const CausalLm::LinearSlot& slot) {
    return slot.path.substr(slot.path.rfind('.') + 1) == name;
  });
}

}  // namespace

LoraSettings adapter_settings(const AdapterOptions& options,
                              const std::vector<CausalLm::LinearSlot>& slots) {
  LoraSettings settings = options;
  if (!options.target_default) return settings;
  for (const std::vector<std::string>& names : family_targets()) {
    if (!std::all_of(names.begin(), names.end(),
                     [&](const std::string& name) { return has_module(slots, name); })) {
      continue;
    }
    settings.target_modules = names;
    return settings;
  }
  throw_error(ErrorCode::kInvalidArgument,
              "adapter.target_modules is default, and PEFT has none for this model; it has for "
              "instance '",
              slots.empty() ? "" : slots.front().path, "'");
}

RunAdapter make_adapter(const FinetuneConfig& config, const LoadedGenerator& base) {
  RunAdapter made;
  const std::filesystem::path start = config.adapter.start_from;
  if (!start.empty()) {
    check_adapter_base(start, base.content_hash, base.name);
    made.config = std::make_unique<LoraConfig>(LoraConfig::load(start / "adapter_config.json"));
    made.adapter = LoraAdapter::load(start, *base.model);
    return made;
  }
  LoraSettings settings = adapter_settings(config.adapter, base.model->linear_slots());
  if (base.model->config().has_encoder() && settings.task_type == LoraSettings().task_type) {
    settings.task_type = "SEQ_2_SEQ_LM";
  }
  if (settings.base_model_name_or_path.empty()) settings.base_model_name_or_path = base.name;
  made.config = std::make_unique<LoraConfig>(LoraConfig::from_settings(settings));
  LoraInitOptions options;
  options.init_lora_weights = settings.init_lora_weights;
  options.loftq_weights = config.adapter.loftq_weights;
  options.seed = config.training.seed;
  made.adapter = create_adapter(*made.config, *base.model, options);
  return made;
}

TrainingShape training_shape(const FinetuneConfig& config, const LoadedGenerator& base,
                             const RunAdapter& adapter,
                             const std::vector<TrainingSequence>& batch) {
  const CausalLmConfig& model = base.model->config();
  TrainingShape shape;
  shape.model.num_layers = model.num_layers;
  shape.model.hidden_size = model.hidden_size;
  shape.model.intermediate_size = model.intermediate_size;
  shape.model.vocab_size = model.vocab_size;
  const ModelInfo info = describe_model(resolve_model(base.path.string()));
  shape.model.num_parameters = info.parameters;
  shape.q_width = model.num_heads * model.head_dim;
  shape.kv_width = model.num_kv_heads * model.head_dim;
  shape.is_exact = config.training.compute == "f32";
  shape.base_bytes =
      held_base_bytes(base_weights(info), parse_load_in(config.model.load_in), shape.is_exact);
  if (adapter.adapter != nullptr) count_parameters(adapter, info.parameters, shape);
  for (const TokenTree& tree :
       pack_sequences(batch, config.training.micro_batch_tokens, config.training.packing, 1.0f)) {
    const auto rows = static_cast<int64_t>(tree.source.size() + tree.tokens.size());
    shape.tokens = std::max(shape.tokens, rows);
    shape.logit_tokens = std::max(shape.logit_tokens, static_cast<int64_t>(tree.targets.size()));
  }
  shape.logit_tokens = std::min<int64_t>(64, shape.logit_tokens);  // so many exist at once
  shape.checkpointing = config.training.checkpointing;
  shape.optimizer = config.training.optimizer;
  shape.threads = num_threads();
  return shape;
}

std::vector<std::string> adapter_notices(const LoadedGenerator& base, const LoraAdapter& adapter) {
  std::vector<std::string> notices;
  const bool saves_table = adapter.find_full("lm_head.weight") != nullptr ||
                           adapter.find_full("model.embed_tokens.weight") != nullptr;
  if (saves_table && base.model->config().tied_head) {
    notices.push_back(
        "The base ties its output head to the embedding; what modules_to_save copies of the two is "
        "trained apart from the other, as PEFT does.");
  }
  return notices;
}

std::vector<StateTensor> save_parameters(const std::vector<ParameterView>& parameters,
                                         const LoraAdapter* adapter) {
  std::vector<StateTensor> state = to_state(parameters);
  if (adapter != nullptr) save_start(*adapter, state);
  return state;
}

void restore_parameters(const std::vector<StateTensor>& state, const std::string& source,
                        const std::vector<ParameterView>& parameters, LoraAdapter* adapter) {
  from_state(state, source, parameters);
  if (adapter != nullptr) restore_start(state, source, *adapter);
}

void save_generator_adapter(const std::filesystem::path& folder, const RunInputs& inputs,
                            const RunAdapter& adapter, ModelCard card) {
  const LoadedGenerator& base = inputs.base;
  const RagTemplate& form = inputs.renderer.options().form;
  card.title = "LoRA adapter for " + base.name;
  card.base_model = base.name;
  card.base_model_hash = base.content_hash;
  SaveAdapterOptions options;
  options.notes.base_content_hash = base.content_hash;
  options.notes.base_name = base.name;
  options.notes.rag_template = form.name;
  options.notes.rag_template_version = form.version;
  options.notes.not_in_documents = form.not_in_documents;
  options.model_card = model_card_markdown(card);
  save_adapter(folder, *adapter.config, *adapter.adapter, options);
}

}  // namespace quarry
