#include "generator/kernels/cuda_check.h"
#include "generator/kernels/device_graph.h"

namespace quarry::kernels::cuda {

DeviceStream::DeviceStream() {
  cuda_check(cudaStreamCreate(&stream_), "cudaStreamCreate");
  const cudaError_t status = cudaStreamCreateWithFlags(&capture_, cudaStreamNonBlocking);
  if (status != cudaSuccess) cudaStreamDestroy(stream_);
  cuda_check(status, "cudaStreamCreateWithFlags");
}

DeviceStream::~DeviceStream() {
  cudaStreamDestroy(stream_);
  cudaStreamDestroy(capture_);
}

std::unique_ptr<DeviceGraph> DeviceGraph::capture(DeviceStream& stream,
                                                  const std::function<void()>& body) {
  if (cudaStreamBeginCapture(stream.capture_, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  cudaGraph_t graph = nullptr;
  stream.is_capturing_ = true;
  const auto end = [&] {
    stream.is_capturing_ = false;
    return cudaStreamEndCapture(stream.capture_, &graph);
  };
  try {
    body();
  } catch (...) {
    end();
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  cudaGraphExec_t runnable = nullptr;
  const bool is_captured =
      end() == cudaSuccess && cudaGraphInstantiate(&runnable, graph, 0) == cudaSuccess;
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (!is_captured) {
    cudaGetLastError();
    return nullptr;
  }
  return std::unique_ptr<DeviceGraph>(new DeviceGraph(runnable));
}

DeviceGraph::~DeviceGraph() { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph_)); }

void DeviceGraph::launch(const DeviceStream& stream) const {
  cuda_check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph_), stream.stream_),
             "cudaGraphLaunch");
}

}  // namespace quarry::kernels::cuda
