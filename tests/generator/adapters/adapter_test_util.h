#pragma once

#include <filesystem>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "generator/adapters/model_file.h"
#include "generator/nn/lora_init.h"
#include "generator/nn/lora_save.h"
#include "tests/generator/models/model_test_util.h"
#include "tests/support/random_values.h"

namespace quarry::test {

inline const std::string kGolden = QUARRY_SOURCE_DIR "/tests/golden/";
// Adapters that PEFT made, in kGolden + "peft", and the model of kGolden + "models" they are for.
struct PeftAdapter {
  const char* name;
  const char* base;
};
inline const PeftAdapter kPeftAdapters[] = {
    {"q_v", "llama"}, {"all_linear", "llama"}, {"rslora", "llama"}, {"patterns", "llama"}};
// The same with parameters held whole (modules_to_save, biases).
inline const PeftAdapter kPeftFullAdapters[] = {{"saved_head", "llama"},
                                                {"saved_embedding", "llama"},
                                                {"saved_mlp", "llama_scaled"},
                                                {"bias_all", "llama_scaled"},
                                                {"bias_lora_only", "llama_scaled"}};
// Trained from PiSSA and converted to plain LoRA.
inline const PeftAdapter kPeftPissaAdapters[] = {{"pissa", "llama"},
                                                 {"pissa_rslora", "llama_scaled"}};
inline void PrintTo(const PeftAdapter& adapter, std::ostream* out) { *out << adapter.name; }

inline std::unique_ptr<ModelFile> open_model(const std::filesystem::path& path) {
  return ModelFile::open(resolve_model(path.string()));
}

// An adapter of random values for the Linears that `settings` target, saved in `folder`.
inline void save_random_adapter(const LoraSettings& settings, const ModelFile& base,
                                const AdapterNotes& notes, const std::filesystem::path& folder) {
  const LoraConfig config = LoraConfig::from_settings(settings);
  std::map<std::string, LoraWeights> weights;
  RandomValues random(5);
  AdapterWeightsByPath by_path;
  for (const CausalLm::LinearSlot& slot : base.slots()) {
    if (!config.targets(slot.path, false)) continue;
    LoraWeights& pair = weights[slot.path];
    pair.rank = config.rank(slot.path);
    pair.scale = static_cast<float>(config.scale(slot.path));
    pair.a = random.normal(pair.rank * slot.in_features, 0, 0.1);
    pair.b = random.normal(pair.rank * slot.out_features, 0, 0.1);
    by_path[slot.path] = &pair;
  }
  SaveAdapterOptions options;
  options.notes = notes;
  save_adapter(folder, config, by_path, {}, options);
}

// The same with `settings.modules_to_save` moved away from the base's values.
inline void save_moved_modules(LoraSettings settings, const CausalLm& model,
                               const std::filesystem::path& folder) {
  LoraInitOptions init;
  init.init_lora_weights = settings.init_lora_weights = "false";
  const LoraConfig config = LoraConfig::from_settings(settings);
  const auto adapter = create_adapter(config, model, init);
  for (auto& [name, full] : adapter->mutable_full()) {
    const std::vector<float> change =
        RandomValues(9).normal(static_cast<int64_t>(full.values.size()), 0, 0.1);
    for (size_t i = 0; i < change.size(); ++i) full.values[i] += change[i];
  }
  save_adapter(folder, config, *adapter);
}

// Logits of a few tokens, in float32 throughout.
inline std::vector<float> logits_of(const std::filesystem::path& model,
                                    const std::filesystem::path& adapter = {}) {
  const LoadedGenerator loaded = load_generator(model.string(), kernels::Precision::kExact);
  std::unique_ptr<LoraAdapter> lora;
  if (!adapter.empty()) lora = LoraAdapter::load(adapter, *loaded.model);
  const std::vector<int32_t> tokens = {5, 17, 250, 3, 99, 42, 42, 180, 7, 1, 64, 31};
  return testing_util::all_logits(*loaded.model, tokens, lora.get());
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return 1e30;
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(double{a[i]} - b[i]));
  return largest;
}

}  // namespace quarry::test
