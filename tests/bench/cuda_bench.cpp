// Speed of the CUDA kernels on the shapes of SmolLM2-135M and of a 1B llama (hidden 2048), each
// product checked first. Calls are captured into a graph, so that launches cost what they cost an
// engine; weights and caches are many copies, larger together than the L2 cache, used in turn.
//   copy      device to device, the measure of GB/s figures
//   decode    gemv of 1, 4 and 8 rows, alone and through all layers
//   prefill   gemm of 512 and 2048 rows: TFLOP/s
//   attention prompts and single queries
//   other     norm, rope, SiLU, LoRA
// tests/bench/peers/cuda_vs_torch.py times PyTorch on the same shapes.  Usage: cuda_bench [name
// ...]
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "generator/kernels/cuda_check.h"
#include "generator/kernels/cuda_twins.h"
#include "generator/quant/half.h"

namespace quarry {
namespace {

using kernels::PackedMatrix;
using kernels::Precision;
using kernels::cuda::cuda_check;
using kernels::cuda::DeviceMatrix;

// Dense halves, H100 SXM data sheet.
constexpr double kPeakTflops = 989.4;
constexpr int64_t kWorkingSet = int64_t{160} << 20;  // bytes; the H100's L2 has 50 MB

class Stream {
 public:
  Stream() { cuda_check(cudaStreamCreate(&stream_), "cudaStreamCreate"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Buffer {
 public:
  explicit Buffer(int64_t bytes) {
    cuda_check(cudaMalloc(&data_, static_cast<size_t>(std::max<int64_t>(bytes, 16))), "cudaMalloc");
  }
  template <typename T>
  explicit Buffer(const std::vector<T>& values)
      : Buffer(static_cast<int64_t>(values.size() * sizeof(T))) {
    cuda_check(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
               "copy");
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* get() const { return data_; }
  float* floats() const { return static_cast<float*>(data_); }
  uint16_t* halves() const { return static_cast<uint16_t*>(data_); }

 private:
  void* data_ = nullptr;
};

// Uniform from -1 to 1.
std::vector<float> random_values(int64_t count) {
  std::minstd_rand generator(7);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(generator()) * 0x1p-30f - 1.0f;
  return values;
}

// Median seconds of one body(i), i = 0 .. calls - 1 captured as one graph and replayed.
double time_graph(const Stream& stream, int calls, const std::function<void(int)>& body) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t runnable = nullptr;
  cuda_check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < calls; ++i) body(i);
  cuda_check(cudaStreamEndCapture(stream.get(), &graph), "capture");
  cuda_check(cudaGraphInstantiate(&runnable, graph, 0), "cudaGraphInstantiate");
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  cuda_check(cudaEventCreate(&begin), "cudaEventCreate");
  cuda_check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<double> seconds;
  for (int run = 0; run < 12; ++run) {
    cuda_check(cudaEventRecord(begin, stream.get()), "cudaEventRecord");
    cuda_check(cudaGraphLaunch(runnable, stream.get()), "cudaGraphLaunch");
    cuda_check(cudaEventRecord(end, stream.get()), "cudaEventRecord");
    cuda_check(cudaEventSynchronize(end), "a kernel");
    float milliseconds = 0.0f;
    cuda_check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (run >= 3) seconds.push_back(1e-3 * milliseconds / calls);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(runnable);
  cudaGraphDestroy(graph);
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

double copy_gbps = 0.0;  // measured first

void print_bytes(const std::string& name, double seconds, double bytes) {
  std::printf("%-46s %9.2f us  %7.1f GB/s  %5.1f %% of copy\n", name.c_str(), seconds * 1e6,
              bytes / seconds / 1e9, 100 * bytes / seconds / 1e9 / copy_gbps);
  std::fflush(stdout);
}
void print_flop(const std::string& name, double seconds, double flop) {
  std::printf("%-46s %9.2f us  %7.1f TFLOP/s  %5.1f %% of peak\n", name.c_str(), seconds * 1e6,
              flop / seconds / 1e12, 100 * flop / seconds / 1e12 / kPeakTflops);
  std::fflush(stdout);
}

void run_copy(const Stream& stream) {
  const int64_t bytes = int64_t{1} << 30;
  const Buffer from(bytes);
  const Buffer to(bytes);
  const double seconds = time_graph(stream, 4, [&](int) {
    cuda_check(cudaMemcpyAsync(to.get(), from.get(), static_cast<size_t>(bytes),
                               cudaMemcpyDeviceToDevice, stream.get()),
               "copy");
  });
  copy_gbps = 2.0 * static_cast<double>(bytes) / seconds / 1e9;
  print_bytes("copy", seconds, 2.0 * static_cast<double>(bytes));
}

std::unique_ptr<PackedMatrix> random_matrix(WeightType type, int64_t n, int64_t k) {
  std::minstd_rand generator(5);
  if (needs_quant_state(type)) {
    std::vector<uint8_t> codes(static_cast<size_t>(n * k / 2));
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>(generator() >> 8);
    QuantState state;
    state.block_size = 64;
    state.absmax.assign(static_cast<size_t>(n * k / 64), 0.1f);
    return kernels::pack_quantized(type, state, codes.data(), n, k, Precision::kFast);
  }
  std::vector<uint8_t> bytes(static_cast<size_t>(weight_bytes(type, n * k)));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(generator() >> 8);
  const WeightTypeTraits& traits = weight_type_traits(type);
  const uint16_t scale = quant::float_to_half(0.01f);
  const uint16_t offset = quant::float_to_half(-0.08f);
  for (int64_t b = 0; b < n * k / traits.block_size; ++b) {
    std::memcpy(bytes.data() + b * traits.bytes_per_block, &scale, 2);
    if (type == WeightType::kQ4_1) {
      std::memcpy(bytes.data() + b * traits.bytes_per_block + 2, &offset, 2);
    }
  }
  return kernels::pack_matrix(type, bytes.data(), n, k, Precision::kFast);
}

struct Shape {
  int64_t n;
  int64_t k;
};

struct Model {
  const char* name;
  int layers;                 // enough that their weights do not fit the L2 cache
  std::vector<Shape> shapes;  // q k v, o, gate and up, down
};

const std::vector<Model>& models() {
  static const std::vector<Model> all = {
      {"135M", 30, {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}}},
      {"1B", 4, {{3072, 2048}, {2048, 2048}, {16384, 2048}, {2048, 8192}}}};
  return all;
}

std::string shape_name(const char* kind, WeightType type, int64_t m, const Shape& s) {
  return std::string(kind) + " " + weight_type_traits(type).name + " m " + std::to_string(m) +
         " [" + std::to_string(s.n) + ", " + std::to_string(s.k) + "]";
}

// Root mean square difference of two [8, n], relative.
double difference(const Buffer& a, const Buffer& b, int64_t count) {
  std::vector<float> left(static_cast<size_t>(count));
  std::vector<float> right(left.size());
  cuda_check(cudaMemcpy(left.data(), a.get(), left.size() * 4, cudaMemcpyDeviceToHost), "copy");
  cuda_check(cudaMemcpy(right.data(), b.get(), left.size() * 4, cudaMemcpyDeviceToHost), "copy");
  double squares = 0.0;
  double total = 0.0;
  for (size_t i = 0; i < left.size(); ++i) {
    squares += std::pow(double{left[i]} - double{right[i]}, 2);
    total += std::pow(double{right[i]}, 2);
  }
  return std::sqrt(squares / total);
}

// gemm against gemv against the CPU.
void check_products(const Stream& stream, WeightType type, const PackedMatrix& packed) {
  const int64_t n = packed.n();
  const int64_t k = packed.k();
  const std::vector<float> x = random_values(8 * k);
  std::vector<float> y(static_cast<size_t>(8 * n));
  kernels::matmul(packed, x.data(), 8, k, y.data(), n);
  const DeviceMatrix weight(packed);
  const Buffer device_x(x);
  const Buffer expected(y);
  const Buffer by_gemv(8 * n * 4);
  const Buffer by_gemm(8 * n * 4);
  const Buffer scratch(kernels::cuda::gemm_scratch_bytes(8, k));
  kernels::cuda::gemv(weight, device_x.floats(), 8, k, by_gemv.floats(), n, stream.get());
  kernels::cuda::gemm(weight, device_x.floats(), 8, k, by_gemm.floats(), n, scratch.get(),
                      stream.get());
  cuda_check(cudaStreamSynchronize(stream.get()), "products");
  std::printf("%-46s gemv %.1e, gemm %.1e from the CPU\n",
              shape_name("parity", type, 8, {n, k}).c_str(), difference(by_gemv, expected, 8 * n),
              difference(by_gemm, expected, 8 * n));
}

void run_decode(const Stream& stream, WeightType type) {
  for (const Model& model : models()) {
    std::vector<std::unique_ptr<DeviceMatrix>> layers;
    const Buffer x(random_values(8 * 8192));
    const Buffer y(8 * 16384 * 4);
    for (const Shape& shape : model.shapes) {
      const auto packed = random_matrix(type, shape.n, shape.k);
      check_products(stream, type, *packed);
      std::vector<std::unique_ptr<DeviceMatrix>> copies;
      copies.push_back(std::make_unique<DeviceMatrix>(*packed));
      const int64_t wanted = std::clamp<int64_t>(kWorkingSet / copies[0]->bytes(), 2, 1024);
      const bool alone = type == WeightType::kQ4_1;
      while (static_cast<int64_t>(copies.size()) < (alone ? wanted : model.layers)) {
        copies.push_back(std::make_unique<DeviceMatrix>(*packed));
      }
      for (const int64_t m : {1, 8}) {
        if (!alone) break;
        const double seconds = time_graph(stream, static_cast<int>(copies.size()), [&](int i) {
          kernels::cuda::gemv(*copies[static_cast<size_t>(i)], x.floats(), m, shape.k, y.floats(),
                              shape.n, stream.get());
        });
        print_bytes(shape_name("gemv", type, m, shape), seconds,
                    static_cast<double>(copies[0]->bytes()));
      }
      for (int i = 0; i < model.layers; ++i) {
        layers.push_back(i < static_cast<int>(copies.size())
                             ? std::move(copies[static_cast<size_t>(i)])
                             : std::make_unique<DeviceMatrix>(*packed));
      }
    }
    double bytes = 0.0;
    for (const auto& layer : layers) bytes += static_cast<double>(layer->bytes());
    for (const int64_t m : {1, 4, 8}) {
      const int count = static_cast<int>(layers.size());
      const double seconds = time_graph(stream, count, [&](int i) {
        // One layer after the other: its four products.
        const auto at = static_cast<size_t>(i % 4 * model.layers + i / 4);
        kernels::cuda::gemv(*layers[at], x.floats(), m, layers[at]->k(), y.floats(),
                            layers[at]->n(), stream.get());
      });
      print_bytes(std::string("layers of ") + model.name + " " + weight_type_traits(type).name +
                      " m " + std::to_string(m),
                  seconds * count, bytes);
    }
  }
}

void run_prefill(const Stream& stream, WeightType type) {
  for (const Model& model : models()) {
    for (const Shape& shape : model.shapes) {
      const auto packed = random_matrix(type, shape.n, shape.k);
      const DeviceMatrix weight(*packed);
      for (const int64_t m : {16, 64, 512, 2048}) {
        if (type != WeightType::kQ4_1 && m != 2048) continue;
        const Buffer x(random_values(m * shape.k));
        const Buffer y(m * shape.n * 4);
        const Buffer scratch(kernels::cuda::gemm_scratch_bytes(m, shape.k));
        const double seconds = time_graph(stream, 20, [&](int) {
          kernels::cuda::gemm(weight, x.floats(), m, shape.k, y.floats(), shape.n, scratch.get(),
                              stream.get());
        });
        print_flop(shape_name("gemm", type, m, shape), seconds,
                   2.0 * static_cast<double>(m * shape.n * shape.k));
      }
    }
  }
}

void run_attention(const Stream& stream) {
  struct Heads {
    int64_t heads, kv_heads, head_dim;
  };
  for (const Heads& h : {Heads{9, 3, 64}, Heads{32, 8, 64}, Heads{32, 8, 128}, Heads{8, 4, 256}}) {
    for (const auto& [queries, keys] :
         {std::pair<int64_t, int64_t>{512, 512}, {2048, 2048}, {1, 1024}, {1, 4096}, {1, 32768}}) {
      kernels::cuda::PagedAttention shape;
      shape.num_heads = h.heads;
      shape.num_kv_heads = h.kv_heads;
      shape.head_dim = h.head_dim;
      shape.ldq = shape.ldo = h.heads * h.head_dim;
      shape.scale = 1.0f / std::sqrt(static_cast<float>(h.head_dim));
      const int64_t part = kernels::cuda::kPageKeys * h.kv_heads * h.head_dim;  // halves
      shape.v_offset = part;
      const int64_t num_pages = keys / kernels::cuda::kPageKeys;
      const int64_t cache = num_pages * part;  // halves of keys, and of values
      const int64_t copies =
          queries > 1 ? 1 : std::clamp<int64_t>(kWorkingSet / (4 * cache), 2, 64);
      std::vector<uint16_t> halves(static_cast<size_t>(2 * cache));
      const std::vector<float> values = random_values(2 * cache);
      kernels::float_to_half(values.data(), 2 * cache, halves.data());
      const Buffer caches(copies * 4 * cache);
      std::vector<const uint16_t*> pages;
      for (int64_t i = 0; i < copies; ++i) {
        uint16_t* first = caches.halves() + i * 2 * cache;
        cuda_check(cudaMemcpy(first, halves.data(), halves.size() * 2, cudaMemcpyHostToDevice),
                   "copy");
        for (int64_t page = 0; page < num_pages; ++page) pages.push_back(first + page * 2 * part);
      }
      const kernels::cuda::AttentionPlan plan =
          kernels::cuda::plan_attention({{queries, keys}}, h.heads / h.kv_heads);
      const Buffer device_pages(pages);
      const Buffer device_sequences(plan.sequences);
      const Buffer device_tiles(plan.tiles);
      shape.sequences = static_cast<const kernels::cuda::PagedSequence*>(device_sequences.get());
      shape.tiles = static_cast<const kernels::cuda::AttentionTile*>(device_tiles.get());
      const Buffer q(random_values(queries * shape.ldq));
      const Buffer out(queries * shape.ldo * 4);
      const Buffer scratch(kernels::cuda::attention_scratch_bytes(plan, h.kv_heads, h.head_dim));
      const double seconds =
          time_graph(stream, static_cast<int>(std::max<int64_t>(copies, 10)), [&](int i) {
            kernels::cuda::PagedAttention one = shape;
            one.pages =
                static_cast<const uint16_t* const*>(device_pages.get()) + i % copies * num_pages;
            kernels::cuda::attention(plan, one, q.floats(), out.floats(), scratch.get(),
                                     stream.get());
          });
      const std::string name = "attention " + std::to_string(queries) + " of " +
                               std::to_string(keys) + ", " + std::to_string(h.heads) + "/" +
                               std::to_string(h.kv_heads) + " x " + std::to_string(h.head_dim);
      if (queries > 1) {  // half of the scores are masked
        print_flop(name, seconds, 2.0 * static_cast<double>(queries * keys * h.heads * h.head_dim));
      } else {
        print_bytes(name, seconds, 4.0 * static_cast<double>(cache));
      }
    }
  }
}

void run_other(const Stream& stream) {
  const int64_t width = 2048;
  const int64_t rows = 16384;  // 128 MiB: more than the L2 cache holds
  const double bytes = 4.0 * static_cast<double>(rows * width);
  const Buffer x(random_values(rows * width));
  const Buffer y(rows * width * 4);
  const Buffer weight(random_values(width));
  const auto time = [&](const std::function<void()>& body) {
    return time_graph(stream, 5, [&](int) { body(); });
  };
  const std::string of = " [16384, 2048]";
  print_bytes("rms_norm" + of, time([&] {
                kernels::cuda::rms_norm(x.floats(), weight.floats(), 1e-5f, rows, width, y.floats(),
                                        stream.get());
              }),
              2 * bytes);
  print_bytes("layer_norm" + of, time([&] {
                kernels::cuda::layer_norm(x.floats(), weight.floats(), weight.floats(), 1e-5f, rows,
                                          width, y.floats(), stream.get());
              }),
              2 * bytes);
  print_bytes("silu and product" + of, time([&] {
                kernels::cuda::gated_product(kernels::cuda::Gate::kSilu, x.floats(), rows / 2,
                                             width, y.floats(), stream.get());
              }),
              1.5 * bytes);
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i % 2048);
  const Buffer device_positions(rows * 4);
  cuda_check(cudaMemcpy(device_positions.get(), positions.data(), positions.size() * 4,
                        cudaMemcpyHostToDevice),
             "copy");
  const Buffer table(random_values(2048 * 32));
  print_bytes("rope" + of, time([&] {
                kernels::cuda::rope(x.floats(), static_cast<int32_t*>(device_positions.get()), rows,
                                    32, 64, 64, width, table.floats(), table.floats(),
                                    kernels::RopePairing::kHalf, stream.get());
              }),
              2 * bytes);
  // Rank 16 on [2048, 2048]: four adapters share the rows.
  const Buffer a(random_values(16 * width));
  for (const int64_t m : {1, 8, 512, 2048}) {
    std::vector<kernels::cuda::LoraSpan> spans;
    const int64_t adapters = std::min<int64_t>(4, m);
    for (int64_t i = 0; i < adapters; ++i) {
      spans.push_back({m * i / adapters, m * (i + 1) / adapters, 16, a.floats(), a.floats()});
    }
    const Buffer scratch(kernels::cuda::lora_scratch_bytes(spans));
    const double seconds = time([&] {
      kernels::cuda::add_lora(spans, x.floats(), width, width, y.floats(), width, width,
                              scratch.get(), stream.get());
    });
    print_bytes("add_lora rank 16 [2048, 2048] m " + std::to_string(m), seconds,
                12.0 * static_cast<double>(m * width));
  }
}

int run_all(int argc, char** argv) {
  const auto wanted = [&](const char* name) {
    return argc == 1 || std::any_of(argv + 1, argv + argc,
                                    [&](const char* arg) { return std::strcmp(arg, name) == 0; });
  };
  cudaDeviceProp properties;
  cuda_check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  std::printf("%s, %d multiprocessors, L2 %d MB\n", properties.name, properties.multiProcessorCount,
              properties.l2CacheSize >> 20);
  const Stream stream;
  run_copy(stream);
  const std::vector<WeightType> types = {WeightType::kQ4_1, WeightType::kQ4_0, WeightType::kNF4,
                                         WeightType::kQ8_0};
  for (const WeightType type : types) {
    if (wanted("decode")) run_decode(stream, type);
    if (wanted("prefill")) run_prefill(stream, type);
  }
  if (wanted("attention")) run_attention(stream);
  if (wanted("other")) run_other(stream);
  return 0;
}

}  // namespace
}  // namespace quarry

int main(int argc, char** argv) { return quarry::run_all(argc, argv); }
