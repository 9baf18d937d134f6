#include "generator/nn/lora_save.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/json.h"
#include "data/core/paths.h"
#include "data/core/staged_folder.h"
#include "generator/quant/encode_dense.h"
#include "generator/weights/printable.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "base_model.model.";
constexpr const char* kNotesFile = "quarry_adapter.json";
constexpr size_t kMaxNotesBytes = size_t{1} << 20;
constexpr int kShownHashDigits = 12;

// Tensors of one file with the bytes they point to.
class EncodedTensors {
 public:
  explicit EncodedTensors(WeightType type) : type_(type) {}

  void add(const std::string& name, const std::vector<float>& values,
           const std::vector<int64_t>& shape) {
    int64_t wanted = 1;
    for (const int64_t extent : shape) wanted *= extent;
    QUARRY_CHECK(wanted > 0 && static_cast<int64_t>(values.size()) == wanted,
                 ErrorCode::kInvalidArgument, "tensor ", printable(name), " holds ", values.size(),
                 " values, wanted ", wanted);
    for (const float value : values) {
      QUARRY_CHECK(std::isfinite(value), ErrorCode::kInvalidArgument, "tensor ", printable(name),
                   " holds a value that is not finite; the adapter is not saved");
    }
    const auto count = static_cast<int64_t>(values.size());
    bytes_.push_back(std::string(static_cast<size_t>(weight_bytes(type_, count)), '\0'));
    encode_dense(type_, values.data(), count, bytes_.back().data());
    tensors_.push_back({name, type_, shape, nullptr});
  }

  // Valid while this object lives.
  std::vector<TensorToWrite> list() const {
    std::vector<TensorToWrite> tensors = tensors_;
    for (size_t i = 0; i < tensors.size(); ++i) tensors[i].data = bytes_[i].data();
    return tensors;
  }

 private:
  WeightType type_;
  std::vector<TensorToWrite> tensors_;
  std::vector<std::string> bytes_;
};

void add_pair(const LoraConfig& config, const std::string& path, const LoraWeights& weights,
              EncodedTensors& tensors) {
  QUARRY_CHECK(weights.rank == config.rank(path), ErrorCode::kInvalidArgument, "adapter of '", path,
               "' has rank ", weights.rank, ", its configuration says ", config.rank(path));
  QUARRY_CHECK(weights.scale == static_cast<float>(config.scale(path)), ErrorCode::kInvalidArgument,
               "adapter of '", path, "' has scale ", weights.scale, ", its configuration says ",
               config.scale(path));
  const auto rank = static_cast<size_t>(weights.rank);
  tensors.add(kPrefix + path + ".lora_A.weight", weights.a,
              {weights.rank, static_cast<int64_t>(weights.a.size() / rank)});
  tensors.add(kPrefix + path + ".lora_B.weight", weights.b,
              {static_cast<int64_t>(weights.b.size() / rank), weights.rank});
}

void check_replaceable(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder, error)) return;
  QUARRY_CHECK(fs::is_directory(folder, error) && !error, ErrorCode::kInvalidArgument,
               folder.string(), ": is not a folder");
  QUARRY_CHECK(fs::is_empty(folder, error) || fs::exists(folder / "adapter_config.json", error),
               ErrorCode::kInvalidArgument, folder.string(),
               ": holds files that are not an adapter's and is not replaced");
}

OrderedJson to_json(const AdapterNotes& notes) {
  OrderedJson json = {
      {"format", 1},
      {"base_model", {{"name", notes.base_name}, {"content_hash", notes.base_content_hash}}}};
  if (!notes.rag_template.empty()) {
    json["rag_template"] = {{"name", notes.rag_template}, {"version", notes.rag_template_version}};
  }
  if (!notes.not_in_documents.empty()) json["not_in_documents"] = notes.not_in_documents;
  if (notes.refusal_bias != 0) json["refusal_bias"] = notes.refusal_bias;
  if (!notes.labels.empty()) json["labels"] = notes.labels;
  return json;
}

std::string short_hash(const std::string& hash) { return hash.substr(0, kShownHashDigits); }

}  // namespace

void save_adapter(const fs::path& folder, const LoraConfig& config,
                  const AdapterWeightsByPath& weights, const FullTensorsByName& full,
                  const SaveAdapterOptions& options) {
  QUARRY_CHECK(!weights.empty(), ErrorCode::kInvalidArgument, folder.string(),
               ": an adapter needs the weights of at least one Linear");
  check_replaceable(folder);
  EncodedTensors tensors(options.type);
  for (const auto& [path, pair] : weights) add_pair(config, path, *pair, tensors);
  for (const auto& [name, tensor] : full) {
    QUARRY_CHECK(config.replaces(name), ErrorCode::kInvalidArgument, "tensor ", printable(name),
                 " is of no module in modules_to_save and no bias that is trained");
    tensors.add(config.stored_name(name), tensor->values, tensor->shape);
  }

  StagedFolder staged(folder);
  write_safetensors(staged.path() / "adapter_model.safetensors", tensors.list(),
                    {{"format", "pt"}});
  config.with_plain_init().save(staged.path() / "adapter_config.json");
  write_file_atomically(staged.path() / kNotesFile, adapter_notes_text(options.notes) + "\n");
  if (!options.model_card.empty()) {
    write_file_atomically(staged.path() / "README.md", options.model_card);
  }
  staged.commit();
}

void save_adapter(const fs::path& folder, const LoraConfig& config, const LoraAdapter& adapter,
                  const SaveAdapterOptions& options) {
  const bool doubled = std::any_of(adapter.weights().begin(), adapter.weights().end(),
                                   [](const auto& item) { return item.second.start != nullptr; });
  const LoraConfig saved = doubled ? config.with_doubled_rank() : config;
  std::map<std::string, LoraWeights> plain;
  AdapterWeightsByPath weights;
  for (const auto& [path, pair] : adapter.weights()) {
    weights[path] = &pair;
    if (!doubled) continue;
    weights[path] = &(plain[path] = to_plain_lora(pair));
    plain[path].scale = static_cast<float>(saved.scale(path));  // alpha sqrt(2) / sqrt(2 r) rounds
  }
  FullTensorsByName full;
  for (const auto& [name, tensor] : adapter.full()) full[name] = &tensor;
  save_adapter(folder, saved, weights, full, options);
}

std::string adapter_notes_text(const AdapterNotes& notes) { return dump_json(to_json(notes), 2); }

AdapterNotes parse_adapter_notes(const std::string& text, const std::string& source) {
  const Json json = parse_json(text, source, ErrorCode::kCorruptData);
  QUARRY_CHECK(json.is_object(), ErrorCode::kCorruptData, source, ": is not an object");
  AdapterNotes notes;
  try {
    const Json base = json.value("base_model", Json::object());
    notes.base_name = base.value("name", "");
    notes.base_content_hash = base.value("content_hash", "");
    const Json form = json.value("rag_template", Json::object());
    notes.rag_template = form.value("name", "");
    notes.rag_template_version = form.value("version", 0);
    notes.not_in_documents = json.value("not_in_documents", "");
    notes.refusal_bias = json.value("refusal_bias", 0.0);
    notes.labels = json.value("labels", std::vector<std::string>());
  } catch (const Json::exception& error) {
    throw_error(ErrorCode::kCorruptData, source, ": ", error.what());
  }
  return notes;
}

std::optional<AdapterNotes> read_adapter_notes(const fs::path& folder) {
  const fs::path path = folder / kNotesFile;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::nullopt;
  const MappedFile file(path);
  QUARRY_CHECK(file.size() <= kMaxNotesBytes, ErrorCode::kCorruptData, path.string(), ": ",
               file.size(), " bytes, at most ", kMaxNotesBytes, " accepted");
  const std::string text(reinterpret_cast<const char*>(file.data()), file.size());
  return parse_adapter_notes(text, path.string());
}

void check_adapter_base(const AdapterNotes& notes, const std::string& source,
                        const std::string& base_content_hash, const std::string& base_name) {
  if (notes.base_content_hash.empty()) return;
  QUARRY_CHECK(notes.base_content_hash == base_content_hash, ErrorCode::kInvalidArgument, source,
               ": was trained on '", notes.base_name, "' (content hash ",
               short_hash(notes.base_content_hash), "), this model is '", base_name, "' (",
               short_hash(base_content_hash), ")");
}

void check_adapter_base(const fs::path& folder, const std::string& base_content_hash,
                        const std::string& base_name) {
  const std::optional<AdapterNotes> notes = read_adapter_notes(folder);
  if (notes) check_adapter_base(*notes, folder.string(), base_content_hash, base_name);
}

}  // namespace quarry
