#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/core/json.h"
#include "generator/weights/gguf_file.h"

namespace quarry {

// Typed reading of a config.json. Every function throws kCorruptData, naming the file, the key, the
// value found and what was wanted. A null value counts as absent, as in Hugging Face's files.
class ConfigValues {
 public:
  // `json` is borrowed. Throws when it is not an object.
  ConfigValues(const Json& json, std::string source);

  const std::string& source() const { return source_; }
  bool empty() const { return json_->empty(); }
  bool has(const char* key) const;

  // A count in 1 .. 2^31 - 1.
  int64_t size(const char* key) const;
  int64_t size_or(const char* key, int64_t fallback) const;
  // A token's id, 0 or more.
  int32_t token_or(const char* key, int32_t fallback) const;
  double number(const char* key) const;  // finite
  double number_or(const char* key, double fallback) const;
  bool flag_or(const char* key, bool fallback) const;
  std::string text_or(const char* key, const std::string& fallback) const;
  // A list of strings; empty when absent.
  std::vector<std::string> texts_or_empty(const char* key) const;
  // An object value; empty when absent.
  ConfigValues object(const char* key) const;

  // Throw kInvalidArgument when the key is there with another value, or is there at all: it would
  // change the maths in a way that we do not compute.
  void require_text(const char* key, const std::string& wanted) const;
  void require_absent(const char* key) const;

 private:
  [[noreturn]] void throw_wrong(const char* key, const char* wanted) const;

  const Json* json_;
  std::string source_;
};

// The same for GGUF metadata.
int64_t gguf_size(const GgufFile& file, const char* key);
int64_t gguf_size_or(const GgufFile& file, const char* key, int64_t fallback);
// Throws kInvalidArgument when the key is there with another value.
void gguf_require(const GgufFile& file, const char* key, int64_t wanted);

}  // namespace quarry
