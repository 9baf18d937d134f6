#include "generator/models/generator_memory.h"

#include <algorithm>

#include "data/core/error.h"
#include "generator/nn/pack_weight.h"

namespace quarry {
namespace {

// What a weight of this type becomes where `load_in` asks for another.
WeightType held_type(WeightType stored, LoadIn load_in) {
  if (load_in == LoadIn::kAsIs) return stored;
  if (load_in == LoadIn::kBF16) return WeightType::kBF16;
  return nn::quantized_type(load_in).value_or(WeightType::kF32);
}

int64_t held_bytes(const TensorView& tensor, int64_t rows, int64_t width, LoadIn load_in,
                   kernels::Precision precision) {
  return kernels::packed_bytes(held_type(tensor.type, load_in), rows, width,
                               nn::held_precision(precision, load_in));
}

int64_t packed_bytes(const CausalLmSource& source, const ModelLayout& layout,
                     kernels::Precision precision) {
  const auto view = [&](const ModelTensor& tensor) -> const TensorView& {
    return source.tensors->get(source.gguf != nullptr ? tensor.gguf_name : tensor.folder_name);
  };
  const LoadIn load_in = source.weights.load_in;
  const LoadIn head_in = nn::quantized_type(load_in) ? LoadIn::kAsIs : load_in;
  int64_t bytes = 0;
  for (const ModelLayout::Linear& linear : layout.linears) {
    bytes += held_bytes(view(linear.weight), linear.slot.out_features, linear.slot.in_features,
                        load_in, precision);
  }
  for (const ModelTensor& tensor : layout.others) {
    if (tensor.shape.size() != 2) continue;  // norms and biases are small
    const bool is_embedding = tensor.hf_name == layout.embedding;
    const bool is_head = tensor.hf_name == (layout.tied_head ? layout.embedding : layout.head);
    if (is_head) {
      bytes += held_bytes(view(tensor), tensor.shape[0], tensor.shape[1], head_in, precision);
    } else if (is_embedding || !tensor.optional) {
      bytes += view(tensor).bytes;
    }
  }
  return bytes;
}

// Floats of a row at the widest point of a layer, its input and residual included.
int64_t row_floats(const CausalLmConfig& config) {
  const int64_t attention =
      2 * config.num_heads * config.head_dim + 2 * config.num_kv_heads * config.head_dim;
  return 3 * config.hidden_size + std::max(attention, 3 * config.intermediate_size);
}

}  // namespace

GeneratorMemory estimate_generator_memory(const CausalLmFamily& family,
                                          const CausalLmSource& source,
                                          const GeneratorMemoryOptions& options) {
  constexpr int64_t kFloatBytes = 4;
  const CausalLmConfig config = family.config(source);
  const int64_t tokens =
      options.tokens_per_sequence == 0 ? config.max_seq_len : options.tokens_per_sequence;
  QUARRY_CHECK(tokens >= 1 && tokens <= config.max_seq_len, ErrorCode::kInvalidArgument,
               source.description, ": ", tokens, " tokens a sequence, the context is ",
               config.max_seq_len);
  const bool floats = options.precision == kernels::Precision::kExact || config.has_encoder();
  const int64_t kv_floats = 2 * config.num_layers * config.num_kv_heads * config.head_dim;
  GeneratorMemory memory;
  memory.weight_bytes = packed_bytes(source, family.layout(source), options.precision);
  // An encoder-decoder keeps what its encoder read beside what the decoder wrote.
  memory.cache_bytes = options.sequences * tokens * kv_floats * (floats ? kFloatBytes : 2) *
                       (config.has_encoder() ? 2 : 1);
  const int64_t step_tokens = std::min(options.step_tokens, options.sequences * tokens);
  memory.step_bytes =
      kFloatBytes * (step_tokens * row_floats(config) + options.sequences * config.vocab_size);
  const ProgramMemory program;
  memory.program_bytes = static_cast<int64_t>(
      program.program_bytes + program.token_bytes * static_cast<double>(config.vocab_size));
  return memory;
}

}  // namespace quarry
