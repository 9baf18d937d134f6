#include "data/core/error.h"
#include "data/core/json.h"
#include "generator/models/config_values.h"
#include "generator/models/device.h"
#include "generator/models/encoder_folder.h"
#include "generator/models/families.h"
#include "generator/weights/model_catalog.h"
#include "generator/weights/printable.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {
namespace {

constexpr size_t kLongestFolderName = 255;

// What modules.json of a sentence-transformers folder says.
struct EncoderFolder {
  std::filesystem::path transformer;  // holds config.json and the weights
  Pooling pooling = Pooling::kMean;
  int64_t max_tokens = 0;
};

Pooling read_pooling(const std::filesystem::path& path) {
  const Json json = read_json_file(path);
  const ConfigValues values(json, path.string());
  const std::string mode = values.text_or("pooling_mode", "");
  const bool mean = mode == "mean" || values.flag_or("pooling_mode_mean_tokens", false);
  const bool cls = mode == "cls" || values.flag_or("pooling_mode_cls_token", false);
  for (const char* key : {"pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens",
                          "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"}) {
    QUARRY_CHECK(!values.flag_or(key, false), ErrorCode::kInvalidArgument, path.string(), ": '",
                 key, "' is not supported (mean or cls)");
  }
  QUARRY_CHECK(mean != cls, ErrorCode::kInvalidArgument, path.string(),
               ": just one of mean and cls pooling is supported, found ",
               mean ? "both" : (mode.empty() ? "neither" : "'" + mode + "'"));
  return mean ? Pooling::kMean : Pooling::kCls;
}

EncoderFolder read_modules(const std::filesystem::path& folder) {
  EncoderFolder result;
  result.transformer = folder;
  const std::filesystem::path path = folder / "modules.json";
  // A plain BERT folder: mean pooling, as sentence-transformers assumes.
  if (!std::filesystem::exists(path)) return result;
  const Json modules = read_json_file(path);
  QUARRY_CHECK(modules.is_array(), ErrorCode::kCorruptData, path.string(),
               ": is not a list of modules");
  for (const Json& module : modules) {
    const ConfigValues values(module, path.string());
    const std::string type = values.text_or("type", "");
    const std::string name = type.substr(type.rfind('.') + 1);
    const std::string subfolder = values.text_or("path", "");
    // One with a path in it could point anywhere on the disk.
    QUARRY_CHECK(subfolder.size() <= kLongestFolderName &&
                     subfolder.find_first_of(std::string("/\0", 2)) == std::string::npos &&
                     subfolder != "..",
                 ErrorCode::kCorruptData, path.string(), ": module path ", printable(subfolder),
                 ", wanted a plain folder name");
    const std::filesystem::path module_folder = folder / subfolder;
    if (name == "Transformer") {
      result.transformer = module_folder;
    } else if (name == "Pooling") {
      result.pooling = read_pooling(module_folder / "config.json");
    } else {
      // Vectors always leave here with length 1, so Normalize has nothing to add.
      QUARRY_CHECK(name == "Normalize", ErrorCode::kInvalidArgument, path.string(), ": module '",
                   type, "' is not supported (Transformer, Pooling, Normalize)");
    }
  }
  result.max_tokens = read_max_tokens(result.transformer);
  return result;
}

[[noreturn]] void throw_no_adapters() {
  throw_error(ErrorCode::kInvalidArgument, "this embedder's family takes no adapter");
}

}  // namespace

const std::vector<CausalLm::LinearSlot>& TextEncoder::linear_slots() const {
  static const std::vector<CausalLm::LinearSlot> kNone;
  return kNone;
}

void TextEncoder::use_cuda() {
  throw_error(ErrorCode::kInvalidArgument, "this embedder's family does not run on a GPU");
}

std::vector<float> TextEncoder::encode_with(const LoraAdapter&,
                                            const std::vector<std::string>&) const {
  throw_no_adapters();
}

void TextEncoder::accumulate_gradients(const LoraAdapter&, const std::vector<std::string>&,
                                       const float*, LoraGradients&) const {
  throw_no_adapters();
}

LoadedEncoder load_text_encoder(const std::string& model, kernels::Precision precision,
                                Device device) {
  const ModelLocation location = resolve_model(model);
  QUARRY_CHECK(location.kind == ModelLocation::Kind::kHuggingFaceFolder,
               ErrorCode::kInvalidArgument, location.path.string(),
               ": an embedder is read from a Hugging Face folder, not from a GGUF file");
  const EncoderFolder folder = read_modules(location.path);
  const std::filesystem::path config_path = folder.transformer / "config.json";
  const Json config = read_json_file(config_path);
  const TextEncoderFamily& family = find_text_encoder_family(config, config_path.string());
  const std::unique_ptr<SafetensorsFile> tensors = SafetensorsFile::open(folder.transformer);
  TextEncoderSource source;
  source.tensors = tensors.get();
  source.config = &config;
  source.description = config_path.string();
  source.pooling = folder.pooling;
  source.max_tokens = folder.max_tokens;

  LoadedEncoder loaded;
  loaded.name = location.name;
  loaded.path = location.path.string();
  loaded.model = family.make(source, load_tokenizer(folder.transformer), precision);
  loaded.content_hash = model_content_hash(location);
  const DeviceChoice choice = choose_device(device, [&] { loaded.model->use_cuda(); });
  loaded.device = choice.device;
  loaded.why_cpu = choice.why_cpu;
  return loaded;
}

}  // namespace quarry
