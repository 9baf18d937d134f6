#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "generator/adapters/model_file.h"
#include "generator/nn/lora_save.h"

namespace quarry {

// Facts for `quarry adapter info`: of a PEFT folder or a GGUF adapter file.
struct AdapterInfo {
  std::filesystem::path path;
  std::string name;                          // of the folder, or of the file without .gguf
  std::string format;                        // "PEFT", "GGUF"
  std::string target_modules;                // as configured, JSON; null for a GGUF
  std::vector<std::string> modules_to_save;  // held whole; as configured
  std::string bias;                          // "none", "all", "lora_only"
  std::vector<std::string> linear_names;  // last components of what is adapted: "q_proj"; "attn_q"
  int64_t r = 0;                          // of most Linears
  double lora_alpha = 0;
  bool use_rslora = false;
  double scale = 0;           // alpha / r, or alpha / sqrt(r) with rsLoRA, without patterns
  bool has_patterns = false;  // rank_pattern or alpha_pattern change r or scale of some Linears
  std::vector<int32_t> invocation_tokens;  // LoraAdapter::invocation_tokens()
  int64_t num_linears = 0;
  int64_t parameters = 0;
  int64_t bytes = 0;        // of the weights file
  std::string tensor_type;  // "F32"
  std::optional<AdapterNotes> notes;
  std::vector<std::string> warnings;
};

// Throws kNotFound, kCorruptData; kInvalidArgument as LoraConfig::load.
AdapterInfo describe_adapter(const std::filesystem::path& path);

// Adapters directly in `folder`, sorted by name. What cannot be read is described by its name and
// one warning. Empty when the folder does not exist.
std::vector<AdapterInfo> list_adapters(const std::filesystem::path& folder);

// ${QUARRY_HOME}/adapters.
std::filesystem::path adapters_folder();
// A path that exists, else the adapter of that name in adapters_folder(). Throws kNotFound, naming
// those that are there.
std::filesystem::path resolve_adapter(const std::string& adapter);

// The adapter that answers with this model unless the user asks for another: adapters_folder() /
// "<name of the model>-qa", when it is there and notes this model's content hash. Throws
// kCorruptData when its notes cannot be read.
std::optional<std::filesystem::path> default_adapter(const LoadedGenerator& generator);

// An adapter beside a model.
struct AdapterFit {
  enum class Base { kMatches, kDiffers, kUnknown };  // of the noted content hash
  Base base = Base::kUnknown;
  int64_t trainable_parameters = 0;
  int64_t all_parameters = 0;  // of the model and the adapter
};
// Throws as LoraAdapter::load when the adapter's tensors do not fit the model.
AdapterFit fit_adapter(const AdapterInfo& adapter, const ModelFile& model);

}  // namespace quarry
