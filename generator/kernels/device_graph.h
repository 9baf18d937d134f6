#pragma once

#include <functional>
#include <memory>

struct CUstream_st;  // cudaStream_t is a pointer to it

namespace quarry::kernels::cuda {

// A stream of its own. Copies of DeviceBuffer wait for what it has under way, and it for them. One
// thread.
class DeviceStream {
 public:
  DeviceStream();  // throws kInternal
  ~DeviceStream();
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;
  // What to launch on.
  CUstream_st* get() const { return is_capturing_ ? capture_ : stream_; }

 private:
  friend class DeviceGraph;
  CUstream_st* stream_ = nullptr;
  // Copies of other threads may go on while this one captures.
  CUstream_st* capture_ = nullptr;
  bool is_capturing_ = false;
};

// Launches that are captured once and replayed together (a CUDA graph): what the CPU does for each
// launch takes longer than a small kernel runs.
class DeviceGraph {
 public:
  // Captures what `body` launches on `stream`, without running it; it may allocate nothing. Null
  // where that cannot be done. Throws what body throws.
  static std::unique_ptr<DeviceGraph> capture(DeviceStream& stream,
                                              const std::function<void()>& body);
  ~DeviceGraph();
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;
  void launch(const DeviceStream& stream) const;  // throws kInternal

 private:
  explicit DeviceGraph(void* graph) : graph_(graph) {}
  void* graph_;  // cudaGraphExec_t
};

}  // namespace quarry::kernels::cuda
