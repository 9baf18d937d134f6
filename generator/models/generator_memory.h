#pragma once

#include <cstdint>

#include "generator/models/families.h"

namespace quarry {

// What only a measurement can tell (heaptrack and VmRSS of the default model, x86-64,
// LibTorch 1.13).
struct ProgramMemory {
  // Resident before a model is loaded: 112 MB of libraries' code, their tables and registries.
  double program_bytes = 155e6;
  double token_bytes = 560;  // of the tokenizer for each token of the vocabulary
};

// Where the bytes of generating go.
struct GeneratorMemory {
  int64_t weight_bytes = 0;   // as packed
  int64_t cache_bytes = 0;    // keys and values
  int64_t step_bytes = 0;     // activations and logits of the largest step
  int64_t program_bytes = 0;  // the program itself and the tokenizer
  int64_t total() const { return weight_bytes + cache_bytes + step_bytes + program_bytes; }
};

struct GeneratorMemoryOptions {
  kernels::Precision precision = kernels::Precision::kFast;
  int64_t sequences = 1;            // that run together
  int64_t tokens_per_sequence = 0;  // prompt and answer; 0: the model's whole context
  int64_t step_tokens = 256;        // of the largest step
};

// Memory to generate with a model, from its configuration and the list of its tensors alone.
// Without prefix cache and adapters. Throws as CausalLmFamily::make; kInvalidArgument for sequences
// longer than the model's context.
GeneratorMemory estimate_generator_memory(const CausalLmFamily& family,
                                          const CausalLmSource& source,
                                          const GeneratorMemoryOptions& options);

}  // namespace quarry
