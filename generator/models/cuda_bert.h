#pragma once

#include <memory>

#include "generator/models/bert_stack.h"

namespace quarry {

// The layers of `stack`, which is borrowed, on the current CUDA device; built with QUARRY_CUDA=ON.
// Weights and activations as CudaDecoder has them: vectors come within a cosine of 0.999 of the
// CPU's. A text's vectors depend on the rest of its batch, by whether that has up to
// kernels::cuda::kGemvRows rows or more, in their last bits.
//
// Throws kInvalidArgument for a stack that was loaded with kExact or whose sizes do not suit the
// kernels, saying so; kUnavailable when the device has too little memory.
std::unique_ptr<BertDevice> make_cuda_bert(const BertStack& stack);

}  // namespace quarry
