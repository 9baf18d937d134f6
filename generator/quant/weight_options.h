#pragma once

#include <memory>
#include <string>

namespace quarry {

class SpillFile;  // data/core/spill_file.h

// How the weights of a model's Linears are held in memory. Embedding, head and norms stay as their
// file has them, as bitsandbytes skips them too; kBF16 and kF32 change the head as well.
enum class LoadIn {
  kAsIs,  // the file's own blocks; dense weights as the precision says
  kNF4,   // blocks of 64 with double quantization: 4.13 bits a weight, 4.25 as packed
  kFP4,   // the same blocks; a larger error, for comparisons
  kInt8,  // rows of LLM.int8: 8.5 bits as packed
  kBF16,
  kF32,  // multiplied in float32 whatever the precision
};

// "as-is", "nf4", "fp4", "int8", "bf16", "f32". Throws kInvalidArgument for another name.
LoadIn parse_load_in(const std::string& name);
const char* load_in_name(LoadIn load_in);

struct WeightOptions {
  LoadIn load_in = LoadIn::kAsIs;
  // Above 0, weights held as int8 are multiplied as LLM.int8 does (quant/int8_rows.h): activations
  // rounded to 8 bits, but for columns that reach this magnitude (bitsandbytes: 6). 0: activations
  // keep the kernels' 16 bits, which is faster here and nearer to the float model. Inference only;
  // rows of a batch then depend on each other.
  float llm_int8_threshold = 0.0f;
  // Where the weights of Linears, embedding and head lie; null: in memory. Not the second copy that
  // llm_int8_threshold needs.
  std::shared_ptr<SpillFile> spill;
};

}  // namespace quarry
