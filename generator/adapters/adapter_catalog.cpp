#include "generator/adapters/adapter_catalog.h"

#include <algorithm>
#include <set>

#include "data/core/error.h"
#include "data/core/paths.h"
#include "generator/weights/gguf_file.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

bool ends_with(const std::string& text, const std::string& tail) {
  return text.size() >= tail.size() &&
         text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

bool is_gguf(const fs::path& path) { return path.extension() == ".gguf"; }

// `suffix`: of the first tensor of each pair.
void describe_tensors(const TensorSource& source, const std::string& suffix, AdapterInfo& info) {
  std::set<std::string> types;
  std::set<std::string> names;
  for (const TensorView& tensor : source.tensors()) {
    info.parameters += tensor.num_elements();
    types.insert(weight_type_traits(tensor.type).name);
    if (!ends_with(tensor.name, suffix)) continue;
    ++info.num_linears;
    const std::string module = tensor.name.substr(0, tensor.name.size() - suffix.size());
    names.insert(module.substr(module.rfind('.') + 1));
  }
  info.linear_names.assign(names.begin(), names.end());
  for (const std::string& type : types) {
    info.tensor_type += (info.tensor_type.empty() ? "" : "+") + type;
  }
}

void describe_peft(AdapterInfo& info) {
  info.format = "PEFT";
  const LoraConfig config = LoraConfig::load(info.path / "adapter_config.json");
  const fs::path weights = info.path / "adapter_model.safetensors";
  describe_tensors(*SafetensorsFile::open(weights), ".lora_A.weight", info);
  info.bytes = static_cast<int64_t>(fs::file_size(weights));
  info.target_modules = config.target_text();
  info.modules_to_save = config.modules_to_save();
  info.bias = config.bias();
  info.r = config.default_rank();
  info.lora_alpha = config.default_alpha();
  info.use_rslora = config.use_rslora();
  info.scale = config.default_scale();
  info.has_patterns = config.has_patterns();
  info.invocation_tokens = config.invocation_tokens();
  info.notes = read_adapter_notes(info.path);
  info.warnings = config.warnings();
}

void describe_gguf(AdapterInfo& info) {
  info.format = "GGUF";
  info.target_modules = "null";
  const auto file = GgufFile::open(info.path);
  QUARRY_CHECK(file->find_string("general.type").value_or("model") == "adapter",
               ErrorCode::kInvalidArgument, info.path.string(),
               ": is a model; general.type of an adapter is 'adapter'");
  describe_tensors(*file, ".weight.lora_a", info);
  info.bytes = static_cast<int64_t>(fs::file_size(info.path));
  info.lora_alpha = file->find_float("adapter.lora.alpha").value_or(0);
  for (const TensorView& tensor : file->tensors()) {
    if (!ends_with(tensor.name, ".lora_a")) continue;
    info.has_patterns = info.has_patterns || (info.r != 0 && info.r != tensor.shape.front());
    if (info.r == 0) info.r = tensor.shape.front();
  }
  if (info.r > 0)
    info.scale = info.lora_alpha > 0 ? info.lora_alpha / static_cast<double>(info.r) : 1;
}

// What is trained beside the base, and the biases that are trained in it.
void count_peft(const fs::path& folder, const ModelFile& model, AdapterFit& fit) {
  const auto adapter =
      LoraAdapter::load(folder, model.slots(), model.tensor_slots(), ActivatedLora::kAccept);
  const LoraConfig config = LoraConfig::load(folder / "adapter_config.json");
  fit.trainable_parameters = 0;
  for (const auto& [path, pair] : adapter->weights()) {
    fit.trainable_parameters += static_cast<int64_t>(pair.a.size() + pair.b.size());
  }
  int64_t in_base = 0;
  for (const auto& [name, full] : adapter->full()) {
    const auto size = static_cast<int64_t>(full.values.size());
    fit.trainable_parameters += size;
    if (!config.copies(name)) in_base += size;
  }
  fit.all_parameters = model.num_parameters() + fit.trainable_parameters - in_base;
}

bool looks_like_adapter(const fs::path& path) {
  std::error_code ignored;
  if (fs::exists(path / "adapter_config.json", ignored)) return true;
  return is_gguf(path) && fs::is_regular_file(path, ignored);
}

}  // namespace

AdapterInfo describe_adapter(const fs::path& path) {
  AdapterInfo info;
  info.path = fs::absolute(path).lexically_normal();
  if (!info.path.has_filename()) info.path = info.path.parent_path();
  info.name = is_gguf(info.path) ? info.path.stem().string() : info.path.filename().string();
  std::error_code ignored;
  QUARRY_CHECK(fs::exists(info.path, ignored), ErrorCode::kNotFound, path.string(),
               ": no such adapter");
  if (is_gguf(info.path)) {
    describe_gguf(info);
  } else {
    describe_peft(info);
  }
  return info;
}

std::vector<AdapterInfo> list_adapters(const fs::path& folder) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (looks_like_adapter(it->path())) paths.push_back(it->path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<AdapterInfo> adapters;
  for (const fs::path& path : paths) {
    try {
      adapters.push_back(describe_adapter(path));
    } catch (const Error& failure) {
      AdapterInfo broken;
      broken.path = path;
      broken.name = path.filename().string();
      broken.warnings = {failure.what()};
      adapters.push_back(broken);
    }
  }
  return adapters;
}

fs::path adapters_folder() { return quarry_home() / "adapters"; }

fs::path resolve_adapter(const std::string& adapter) {
  std::error_code ignored;
  if (fs::exists(adapter, ignored)) return adapter;
  fs::path installed = adapters_folder() / adapter;
  const bool is_name = !adapter.empty() && adapter.find('/') == std::string::npos;
  if (is_name && looks_like_adapter(installed)) return installed;
  std::string known;
  for (const AdapterInfo& info : list_adapters(adapters_folder())) {
    known += (known.empty() ? "" : ", ") + info.name;
  }
  throw_error(ErrorCode::kNotFound, "adapter '", adapter, "': no such folder or file, and not in ",
              adapters_folder().string(), known.empty() ? " (which holds none)" : " (which holds ",
              known, known.empty() ? "" : ")");
}

std::optional<fs::path> default_adapter(const LoadedGenerator& generator) {
  const fs::path folder = adapters_folder() / (generator.name + "-qa");
  const std::optional<AdapterNotes> notes = read_adapter_notes(folder);
  if (!notes || notes->base_content_hash.empty()) return std::nullopt;
  if (notes->base_content_hash != generator.content_hash) return std::nullopt;
  return folder;
}

AdapterFit fit_adapter(const AdapterInfo& adapter, const ModelFile& model) {
  AdapterFit fit;
  fit.trainable_parameters = adapter.parameters;
  fit.all_parameters = adapter.parameters + model.num_parameters();
  if (adapter.format == "PEFT") count_peft(adapter.path, model, fit);
  if (adapter.notes && !adapter.notes->base_content_hash.empty()) {
    const std::string hash = model_content_hash(model.location());
    fit.base = hash == adapter.notes->base_content_hash ? AdapterFit::Base::kMatches
                                                        : AdapterFit::Base::kDiffers;
  }
  return fit;
}

}  // namespace quarry
