#include "generator/nn/lora.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "data/core/error.h"
#include "data/core/hash.h"
#include "generator/nn/lora_config.h"
#include "generator/quant/encode_dense.h"
#include "generator/weights/printable.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {
namespace {

constexpr const char* kPrefix = "base_model.model.";
constexpr const char* kSuffixA = ".lora_A.weight";
constexpr const char* kSuffixB = ".lora_B.weight";
constexpr const char* kOutputHead = "lm_head";

std::unique_ptr<SafetensorsFile> open_weights(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "adapter_model.safetensors";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    QUARRY_CHECK(!std::filesystem::exists(folder / "adapter_model.bin", ignored),
                 ErrorCode::kInvalidArgument, folder.string(),
                 ": holds adapter_model.bin, a Python pickle, which can run any code and is not "
                 "read; save the adapter as safetensors (PEFT's save_pretrained does)");
    throw_error(ErrorCode::kNotFound, folder.string(), ": holds no adapter_model.safetensors");
  }
  return SafetensorsFile::open(path);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t extent : shape) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  }
  return text + "]";
}

// Float values of a tensor of exactly this shape. `what` wants it, for messages.
std::vector<float> read_values(const SafetensorsFile& file, const std::string& name,
                               const std::vector<int64_t>& wanted, const char* what) {
  const TensorView& tensor = file.get(name);
  QUARRY_CHECK(is_dense_float(tensor.type), ErrorCode::kInvalidArgument, file.description(),
               ": tensor ", printable(name), " has dtype ", weight_type_traits(tensor.type).name,
               ", wanted F32, F16 or BF16");
  QUARRY_CHECK(tensor.shape == wanted, ErrorCode::kInvalidArgument, file.description(), ": tensor ",
               printable(name), " has shape ", shape_text(tensor.shape), ", ", what,
               shape_text(wanted));
  std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
  dequantize(tensor.type, tensor.data, values.data(), tensor.num_elements());
  for (const float value : values) {
    QUARRY_CHECK(std::isfinite(value), ErrorCode::kCorruptData, file.description(), ": tensor ",
                 printable(name), " holds a value that is not finite");
  }
  return values;
}

std::vector<float> read_matrix(const SafetensorsFile& file, const std::string& name, int64_t rows,
                               int64_t columns) {
  return read_values(file, name, {rows, columns}, "this model and rank want ");
}

bool ends_with(const std::string& text, const std::string& tail) {
  return text.size() >= tail.size() &&
         text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

// With bias "all" PEFT also writes the biases of a copied module under the names they have inside
// it: the base's own, which the copy replaces, and the copy's a second time.
bool is_bias_inside_copy(const LoraConfig& config, const std::string& name) {
  const std::string prefix = kPrefix;
  if (config.bias() != "all" || name.compare(0, prefix.size(), prefix) != 0) return false;
  for (const char* part : {".original_module.", ".modules_to_save."}) {
    const size_t at = name.find(part);
    if (at == std::string::npos) continue;
    // The adapter's name may stand between: "mlp.modules_to_save.default.up_proj.bias".
    const std::string module = name.substr(prefix.size(), at - prefix.size());
    return ends_with(name, ".bias") && config.copies(module + ".bias");
  }
  return false;
}

// Why a tensor that neither a targeted Linear nor modules_to_save took is in the file.
[[noreturn]] void refuse_tensor(const SafetensorsFile& file, const std::string& name,
                                const LoraConfig& config,
                                const std::vector<CausalLm::LinearSlot>& slots) {
  const std::string what = file.description() + ": tensor " + printable(name);
  const std::string prefix = kPrefix;
  const std::string suffix_a = kSuffixA;
  const bool is_pair =
      name.size() > prefix.size() + suffix_a.size() &&
      name.compare(0, prefix.size(), prefix) == 0 &&
      (name.compare(name.size() - suffix_a.size(), suffix_a.size(), suffix_a) == 0 ||
       name.compare(name.size() - suffix_a.size(), suffix_a.size(), kSuffixB) == 0);
  QUARRY_CHECK(
      is_pair, ErrorCode::kInvalidArgument, what,
      " is neither base_model.model.<module>.lora_A.weight nor .lora_B.weight, nor of a module of "
      "this model that modules_to_save names, nor a bias that is trained; LoRA of embeddings and "
      "DoRA are not supported");
  const std::string path =
      name.substr(prefix.size(), name.size() - prefix.size() - suffix_a.size());
  for (const CausalLm::LinearSlot& slot : slots) {
    QUARRY_CHECK(slot.path != path, ErrorCode::kCorruptData, what, " adapts '", path,
                 "', which target_modules ", config.target_text(), " leaves out");
  }
  throw_error(ErrorCode::kInvalidArgument, what, " adapts ", printable(path),
              ", which this model does not have", slots.empty() ? "" : "; it has for instance '",
              slots.empty() ? "" : slots.front().path + "'", " (made for another base model?)");
}

std::string hash_of(const std::vector<float>& values) {
  return sha256_hex(
      {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(values[0])});
}

}  // namespace

void check_disjoint(const LoraConfig& config, const std::vector<CausalLm::LinearSlot>& slots) {
  for (const CausalLm::LinearSlot& slot : slots) {
    QUARRY_CHECK(!config.targets(slot.path, slot.path == kOutputHead) ||
                     !config.copies(slot.path + ".weight"),
                 ErrorCode::kInvalidArgument, "modules_to_save selects '", slot.path,
                 "', which target_modules ", config.target_text(),
                 " adapts as well; name whole components of its path to save it in full");
  }
}

std::unique_ptr<LoraAdapter> LoraAdapter::load(const std::filesystem::path& folder,
                                               const std::vector<CausalLm::LinearSlot>& slots,
                                               const std::vector<CausalLm::TensorSlot>& tensors,
                                               ActivatedLora activated) {
  std::error_code ignored;
  QUARRY_CHECK(std::filesystem::is_directory(folder, ignored), ErrorCode::kNotFound,
               folder.string(), ": no such adapter folder");
  const LoraConfig config = LoraConfig::load(folder / "adapter_config.json");
  QUARRY_CHECK(activated == ActivatedLora::kAccept || config.invocation_tokens().empty(),
               ErrorCode::kInvalidArgument, folder.string(), ": alora_invocation_tokens is ",
               dump_json(config.json()["alora_invocation_tokens"]),
               ": it acts from these tokens on only (aLoRA), so that it can be served beside its "
               "base, but not merged, mixed, converted to GGUF, trained on or put into an encoder");
  const std::unique_ptr<SafetensorsFile> file = open_weights(folder);
  auto adapter = std::make_unique<LoraAdapter>();
  adapter->warnings_ = config.warnings();
  adapter->invocation_tokens_ = config.invocation_tokens();
  check_disjoint(config, slots);

  std::set<std::string> taken;
  for (const CausalLm::LinearSlot& slot : slots) {
    if (!config.targets(slot.path, slot.path == kOutputHead)) continue;
    const std::string name_a = kPrefix + slot.path + kSuffixA;
    const std::string name_b = kPrefix + slot.path + kSuffixB;
    QUARRY_CHECK(
        file->find(name_a) != nullptr, ErrorCode::kCorruptData, file->description(), ": holds no ",
        printable(name_a),
        file->find(name_b) != nullptr ? ", only its lora_B" : ", which the adapter targets");
    QUARRY_CHECK(file->find(name_b) != nullptr, ErrorCode::kCorruptData, file->description(),
                 ": holds no ", printable(name_b), ", only its lora_A");
    LoraWeights weights;
    weights.rank = config.rank(slot.path);
    weights.scale = static_cast<float>(config.scale(slot.path));
    weights.a = read_matrix(*file, name_a, weights.rank, slot.in_features);
    weights.b = read_matrix(*file, name_b, slot.out_features, weights.rank);
    weights.pack();
    adapter->weights_.emplace(slot.path, std::move(weights));
    taken.insert(name_a);
    taken.insert(name_b);
  }
  for (const CausalLm::TensorSlot& slot : tensors) {
    if (!config.replaces(slot.name)) continue;
    const std::string name = config.stored_name(slot.name);
    QUARRY_CHECK(file->find(name) != nullptr, ErrorCode::kCorruptData, file->description(),
                 ": holds no ", printable(name), ", which ",
                 config.copies(slot.name) ? "modules_to_save names" : "bias asks for");
    FullTensor full;
    full.shape = slot.shape;
    full.use = slot.use;
    full.values = read_values(*file, name, slot.shape, "this model wants ");
    full.pack();
    adapter->full_.emplace(slot.name, std::move(full));
    taken.insert(name);
  }
  for (const TensorView& tensor : file->tensors()) {
    if (is_bias_inside_copy(config, tensor.name)) continue;
    if (taken.count(tensor.name) == 0) refuse_tensor(*file, tensor.name, config, slots);
  }
  for (const auto& [name, dtype] : file->unreadable()) refuse_tensor(*file, name, config, slots);
  QUARRY_CHECK(!adapter->weights_.empty(), ErrorCode::kInvalidArgument, folder.string(),
               ": target_modules ", config.target_text(), " match no Linear of this model");
  return adapter;
}

std::string LoraAdapter::content_hash() const {
  std::string parts;
  for (const auto& [path, pair] : weights_) {
    parts += concat(path, '\n', pair.rank, ' ', hash_of({pair.scale}), ' ', hash_of(pair.a), ' ',
                    hash_of(pair.b), '\n');
  }
  for (const int32_t token : invocation_tokens_) parts += concat("from ", token, '\n');
  for (const auto& [name, tensor] : full_) {
    parts += concat(name, '\n', shape_text(tensor.shape), ' ', hash_of(tensor.values), '\n');
  }
  return sha256_hex(parts);
}

AdapterReach::AdapterReach(const LoraAdapter* adapter, const std::vector<int32_t>& prompt)
    : adapter_(adapter) {
  if (adapter == nullptr || adapter->invocation_tokens().empty()) return;
  const std::vector<int32_t>& tokens = adapter->invocation_tokens();
  const auto last = std::find_end(prompt.begin(), prompt.end(), tokens.begin(), tokens.end());
  begin_ = last == prompt.end() ? kNever : last - prompt.begin();
}

const LoraWeights* LoraAdapter::find(const std::string& linear_path) const {
  const auto it = weights_.find(linear_path);
  return it == weights_.end() ? nullptr : &it->second;
}

}  // namespace quarry
