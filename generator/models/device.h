#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "generator/models/causal_lm.h"

namespace quarry {

class BertStack;  // generator/models/bert_stack.h

// What of CUDA this build and this machine have.
struct CudaSupport {
  bool is_built = false;
  int num_devices = 0;  // that the driver and CUDA_VISIBLE_DEVICES show; the first is used
  std::string name;     // of the first: "NVIDIA H100 80GB HBM3"; empty without one
  std::string problem;  // why the first cannot be used; empty: it can
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};
CudaSupport cuda_support();  // never throws

// Runs `move`, which moves a model to the first CUDA device, where `wanted` says so. Throws
// kUnavailable for kCuda without a device; what move() throws is thrown on for kCuda, and told for
// kAuto.
struct DeviceChoice {
  Device device = Device::kCpu;
  std::string why_cpu;  // of kAuto, where there is a device: why it is not used
};
DeviceChoice choose_device(Device wanted, const std::function<void()>& move);

// make_cuda_decoder(); in a build without CUDA throws kUnavailable. `model` keeps its value where
// it throws.
std::unique_ptr<CausalLm> move_to_cuda(std::unique_ptr<CausalLm>&& model);

// make_cuda_bert(), likewise.
void move_to_cuda(BertStack& stack);

}  // namespace quarry
