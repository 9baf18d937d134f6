#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace quarry {

constexpr const char* kDefaultGenerator = "smollm2-135m-instruct";
constexpr const char* kDefaultEmbedder = "all-minilm-l6-v2";

// Where a model argument points. Everywhere a model is named, it is a short name (a folder under
// quarry_home()/models), a Hugging Face folder or a .gguf file.
struct ModelLocation {
  enum class Kind { kGgufFile, kHuggingFaceFolder };
  Kind kind;
  std::string name;            // short name, or the file's or folder's own name
  std::filesystem::path path;  // the .gguf file or the folder
};

// Throws kNotFound, naming the installed models and how to fetch the default ones; kInvalidArgument
// for a path that is neither kind.
ModelLocation resolve_model(const std::string& model);

std::vector<ModelLocation> installed_models();

// SHA-256 that identifies a model's behaviour: the .gguf file's bytes, or of a folder its
// config.json, tokenizer files and safetensors. Cached beside the user's cache by path, size and
// modification time, as it reads whole files.
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
ModelInfo describe_model(const ModelLocation& model);

}  // namespace quarry
