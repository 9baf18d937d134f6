#include "generator/models/device.h"

#include <utility>

#include "data/core/error.h"
#ifdef QUARRY_CUDA
#include "generator/kernels/device_buffer.h"
#include "generator/models/cuda_decoder.h"
#endif

namespace quarry {

#ifdef QUARRY_CUDA

CudaSupport cuda_support() {
  CudaSupport support;
  support.is_built = true;
  support.num_devices = kernels::cuda::device_count();
  if (support.num_devices == 0) return support;
  const kernels::cuda::DeviceMemory memory = kernels::cuda::device_memory();
  support.name = kernels::cuda::device_name();
  support.free_bytes = memory.free;
  support.total_bytes = memory.total;
  return support;
}

std::unique_ptr<CausalLm> move_to_cuda(std::unique_ptr<CausalLm>&& model) {
  return make_cuda_decoder(std::move(model));
}

#else

CudaSupport cuda_support() { return {}; }

std::unique_ptr<CausalLm> move_to_cuda(std::unique_ptr<CausalLm>&&) {
  throw_error(ErrorCode::kUnavailable, "this quarry was built without CUDA (QUARRY_CUDA)");
}

#endif

}  // namespace quarry
