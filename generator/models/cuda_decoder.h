#pragma once

#include <memory>

#include "generator/models/causal_lm.h"

namespace quarry {

// A decoder whose forward() runs on the current CUDA device; built with QUARRY_CUDA=ON. Weights are
// those of `model`, dense ones as bytes with a scale for each 64 (kernels::cuda::DeviceMatrix),
// activations float32 but for what products and attention round to halves, keys and values halves
// in the device's memory. The last bits of a sequence's logits depend on the rest of the batch, by
// whether the step has up to kernels::cuda::kGemvRows rows or more, and on how its prompt was cut:
// sums run in orders of their own. Adapters are copied to the device when they first run there, or
// are checked. All else, training included, is done by `model`, on the CPU.
//
// Throws kInvalidArgument where the model is not a GatedStack, was loaded with kExact or for
// LLM.int8's product with outliers, or where its sizes do not suit the kernels, saying so;
// kUnavailable when the device has too little memory. `model` keeps its value then. check_adapter()
// throws kInvalidArgument for an adapter with whole modules (modules_to_save), forward()
// kUnavailable when there is no memory left.
std::unique_ptr<CausalLm> make_cuda_decoder(std::unique_ptr<CausalLm>&& model);

}  // namespace quarry
