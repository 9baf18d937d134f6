#include "generator/kernels/cuda_check.h"
#include "generator/kernels/device_graph.h"

namespace quarry::kernels::cuda {

DeviceStream::DeviceStream() { cuda_check(cudaStreamCreate(&stream_), "cudaStreamCreate"); }

DeviceStream::~DeviceStream() { cudaStreamDestroy(stream_); }

std::unique_ptr<DeviceGraph> DeviceGraph::record(const DeviceStream& stream,
                                                 const std::function<void()>& body) {
  if (cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  cudaGraph_t graph = nullptr;
  try {
    body();
  } catch (...) {
    cudaStreamEndCapture(stream.get(), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  cuda_check(cudaStreamEndCapture(stream.get(), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t runnable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&runnable, graph, 0);
  cudaGraphDestroy(graph);
  cuda_check(status, "cudaGraphInstantiate");
  return std::unique_ptr<DeviceGraph>(new DeviceGraph(runnable));
}

DeviceGraph::~DeviceGraph() { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph_)); }

void DeviceGraph::launch(const DeviceStream& stream) const {
  cuda_check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph_), stream.get()),
             "cudaGraphLaunch");
}

}  // namespace quarry::kernels::cuda
