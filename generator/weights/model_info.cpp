// describe_model: the facts of `quarry model info`.
#include <map>

#include "data/core/json.h"
#include "generator/weights/bnb_tensors.h"
#include "generator/weights/gguf_file.h"
#include "generator/weights/model_catalog.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

bool ends_with(const std::string& text, const std::string& tail) {
  return text.size() >= tail.size() &&
         text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

void add_tensors(const TensorSource& source, ModelInfo* info) {
  std::map<std::string, int64_t> types;
  for (const TensorView& tensor : source.tensors()) {
    ++types[weight_type_traits(tensor.type).name];
    info->weight_bytes += tensor.bytes;
    const bool is_index = tensor.type == WeightType::kI64 || tensor.type == WeightType::kI32;
    if (!is_index) info->parameters += tensor.num_elements();
  }
  info->tensor_types.assign(types.begin(), types.end());
}

void describe_gguf(const GgufFile& file, ModelInfo* info) {
  info->format = "gguf v" + std::to_string(file.version());
  info->architecture = file.get_string("general.architecture");
  const bool is_encoder = info->architecture.find("bert") != std::string::npos;
  info->role = is_encoder ? "embedder" : "generator";
  info->context_length = file.find_int(info->architecture + ".context_length").value_or(0);
  info->vocab_size = file.find_array_size("tokenizer.ggml.tokens").value_or(0);
  const std::string model = file.find_string("tokenizer.ggml.model").value_or("none");
  const std::string pre = file.find_string("tokenizer.ggml.pre").value_or("default");
  info->tokenizer = model == "gpt2"    ? "byte-level BPE, " + pre
                    : model == "llama" ? "sentencepiece"
                    : model == "bert"  ? "WordPiece"
                                       : model;
  add_tensors(file, info);
}

std::string folder_tokenizer(const fs::path& folder) {
  std::error_code ignored;
  if (fs::exists(folder / "tokenizer.json", ignored)) {
    const Json tokenizer = read_json_file(folder / "tokenizer.json");
    const Json::json_pointer type("/model/type");
    if (tokenizer.contains(type) && tokenizer[type].is_string()) {
      return tokenizer[type].get<std::string>();
    }
    return "tokenizer.json of no known type";
  }
  if (fs::exists(folder / "vocab.txt", ignored)) return "WordPiece";
  for (const char* name : {"tokenizer.model", "spiece.model"}) {
    if (fs::exists(folder / name, ignored)) return "sentencepiece";
  }
  return "none";
}

// An integer of a JSON object, 0 when there is none.
int64_t find_size(const Json& object, const char* key) {
  return object.contains(key) && object[key].is_number_integer() ? object[key].get<int64_t>() : 0;
}

void describe_folder(const fs::path& folder, ModelInfo* info) {
  const Json config = read_json_file(folder / "config.json");
  QUARRY_CHECK(
      config.is_object() && config.contains("model_type") && config["model_type"].is_string(),
      ErrorCode::kCorruptData, (folder / "config.json").string(), ": has no \"model_type\"");
  info->format = "safetensors";
  info->architecture = config["model_type"].get<std::string>();
  std::string class_name;
  if (const Json::json_pointer first("/architectures/0");
      config.contains(first) && config[first].is_string()) {
    class_name = config[first].get<std::string>();
  }
  std::error_code ignored;
  const bool generates =
      ends_with(class_name, "ForCausalLM") || ends_with(class_name, "ForConditionalGeneration");
  info->role = generates ? "generator"
               : fs::exists(folder / "modules.json", ignored) || ends_with(class_name, "Model")
                   ? "embedder"
                   : "unknown";
  info->context_length = find_size(config, "max_position_embeddings");
  if (fs::exists(folder / "sentence_bert_config.json", ignored)) {
    const Json sentence = read_json_file(folder / "sentence_bert_config.json");
    if (sentence.is_object() && find_size(sentence, "max_seq_length") > 0) {
      info->context_length = find_size(sentence, "max_seq_length");
    }
  }
  info->vocab_size = find_size(config, "vocab_size");
  info->tokenizer = folder_tokenizer(folder);
  auto weights = SafetensorsFile::open(folder);
  if (weights->num_files() > 1) {
    info->format += " in " + std::to_string(weights->num_files()) + " shards";
  }
  add_tensors(*join_bnb_tensors(std::move(weights)), info);
}

}  // namespace

ModelInfo describe_model(const ModelLocation& model) {
  ModelInfo info;
  info.location = model;
  if (model.kind == ModelLocation::Kind::kGgufFile) {
    describe_gguf(*GgufFile::open(model.path), &info);
  } else {
    describe_folder(model.path, &info);
  }
  info.content_hash = model_content_hash(model);
  return info;
}

}  // namespace quarry
