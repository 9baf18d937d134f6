#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// What a weights file says of its tensors, read by parsers that share nothing with Quarry's own.
namespace quarry::fuzz {

struct TensorFacts {
  std::string name;
  std::string type;  // "F32", "Q4_1"
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // in the file
  uint64_t end = 0;
};

// A number in a header.
struct NumberField {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct FileFacts {
  std::vector<TensorFacts> tensors;
  uint64_t data_begin = 0;
  std::vector<NumberField> numbers;  // counts, lengths, types, extents, offsets
};

// Nullopt for what the format forbids: tensors outside the file or over one another, names that
// are there twice, sizes that disagree. Tensors of types that Quarry does not read are in the list
// of a safetensors file, and make a GGUF nullopt.
std::optional<FileFacts> gguf_facts(std::string_view file);
std::optional<FileFacts> safetensors_facts(std::string_view file);

// Whether Quarry reads tensors of a type.
bool is_read(const std::string& type);

}  // namespace quarry::fuzz
