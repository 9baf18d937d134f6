#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "generator/models/causal_lm.h"

namespace quarry {

// What of CUDA this build and this machine have.
struct CudaSupport {
  bool is_built = false;
  int num_devices = 0;  // that the driver and CUDA_VISIBLE_DEVICES show; the first is used
  std::string name;     // of the first: "NVIDIA H100 80GB HBM3"; empty without one
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};
CudaSupport cuda_support();

// make_cuda_decoder(); in a build without CUDA throws kUnavailable. `model` keeps its value where
// it throws.
std::unique_ptr<CausalLm> move_to_cuda(std::unique_ptr<CausalLm>&& model);

}  // namespace quarry
