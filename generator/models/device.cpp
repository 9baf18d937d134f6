#include "generator/models/device.h"

#include <utility>

#include "data/core/error.h"
#ifdef QUARRY_CUDA
#include "generator/kernels/device_buffer.h"
#include "generator/models/cuda_bert.h"
#include "generator/models/cuda_decoder.h"
#endif

namespace quarry {

DeviceChoice choose_device(Device wanted, const std::function<void()>& move) {
  DeviceChoice choice;
  if (wanted == Device::kCpu) return choice;
  const CudaSupport cuda = cuda_support();
  if (wanted == Device::kAuto && cuda.num_devices == 0) return choice;
  QUARRY_CHECK(
      cuda.num_devices > 0 || !cuda.is_built, ErrorCode::kUnavailable,
      "there is no CUDA device: no driver, or none that CUDA_VISIBLE_DEVICES lets through");
  QUARRY_CHECK(cuda.problem.empty() || wanted == Device::kAuto, ErrorCode::kUnavailable,
               cuda.problem);
  choice.why_cpu = cuda.problem;
  if (!cuda.problem.empty()) return choice;
  try {
    move();
    choice.device = Device::kCuda;
  } catch (const Error& error) {
    if (wanted == Device::kCuda) throw;
    choice.why_cpu = error.what();
  }
  return choice;
}

#ifdef QUARRY_CUDA

CudaSupport cuda_support() {
  CudaSupport support;
  support.is_built = true;
  support.num_devices = kernels::cuda::device_count();
  if (support.num_devices == 0) return support;
  try {
    const kernels::cuda::DeviceFacts facts = kernels::cuda::device_facts();
    support.name = facts.name;
    support.free_bytes = facts.free_bytes;
    support.total_bytes = facts.total_bytes;
    if (facts.major < kernels::cuda::kFewestMajor) {
      support.problem =
          concat(facts.name, " has compute capability ", facts.major, ".", facts.minor, ", wanted ",
                 kernels::cuda::kFewestMajor, ".0 or later");
    }
  } catch (const Error& error) {
    support.problem = error.what();
  }
  return support;
}

std::unique_ptr<CausalLm> move_to_cuda(std::unique_ptr<CausalLm>&& model) {
  return make_cuda_decoder(std::move(model));
}

void move_to_cuda(BertStack& stack) { stack.set_device(make_cuda_bert(stack)); }

#else

CudaSupport cuda_support() { return {}; }

namespace {

[[noreturn]] void throw_no_cuda() {
  throw_error(ErrorCode::kUnavailable, "this quarry was built without CUDA (QUARRY_CUDA)");
}

}  // namespace

std::unique_ptr<CausalLm> move_to_cuda(std::unique_ptr<CausalLm>&&) { throw_no_cuda(); }
void move_to_cuda(BertStack&) { throw_no_cuda(); }

#endif

}  // namespace quarry
