// Speed of matmul on the shapes of the default models, each checked against the plain version
// first.
//   decode    one token through all the weights of SmolLM2-135M (Q4_1, head Q8_0): GB/s, tokens/s
//   prefill   128 and 512 tokens through its layers: GOP/s, tokens/s
//   train     512 and 2,048 tokens forward and backward with activations of 8 bits: GOP/s
//   nf4, int8 both with layers of that type, the head as before
//   embed     165 tokens through all-MiniLM-L6-v2 in bfloat16: GFLOP/s, passages/s
//   exact     float32
// Usage: matmul_bench [name ...]     QUARRY_CPU_ISA and OMP_NUM_THREADS as everywhere.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "data/core/cpu_isa.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/matmul.h"
#include "generator/kernels/matmul_twins.h"
#include "generator/quant/half.h"
#include "tests/bench/bench_util.h"

namespace quarry {
namespace {

using kernels::PackedMatrix;
using kernels::Precision;

struct Layer {
  WeightType type;
  int64_t n;
  int64_t k;
};

struct Model {
  std::vector<std::unique_ptr<PackedMatrix>> weights;
  int64_t bytes = 0;
  int64_t multiplies = 0;
  int64_t max_n = 0;
  int64_t max_k = 0;
};

std::vector<uint8_t> random_weights(WeightType type, int64_t count, std::mt19937* generator) {
  std::vector<uint8_t> bytes(static_cast<size_t>(weight_bytes(type, count)));
  if (type == WeightType::kF32) {
    std::normal_distribution<float> normal(0.0f, 0.05f);
    float* values = reinterpret_cast<float*>(bytes.data());
    for (int64_t i = 0; i < count; ++i) values[i] = normal(*generator);
    return bytes;
  }
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>((*generator)());
  const WeightTypeTraits& traits = weight_type_traits(type);
  const uint16_t scale = quant::float_to_half(0.01f);
  const uint16_t offset = quant::float_to_half(-0.08f);
  for (int64_t b = 0; b < count / traits.block_size; ++b) {
    std::memcpy(bytes.data() + b * traits.bytes_per_block, &scale, 2);
    if (type == WeightType::kQ4_1) {
      std::memcpy(bytes.data() + b * traits.bytes_per_block + 2, &offset, 2);
    }
  }
  return bytes;
}

std::unique_ptr<PackedMatrix> random_matrix(const Layer& layer, Precision precision,
                                            std::mt19937* generator) {
  if (!needs_quant_state(layer.type)) {
    const auto bytes = random_weights(layer.type, layer.n * layer.k, generator);
    return kernels::pack_matrix(layer.type, bytes.data(), layer.n, layer.k, precision);
  }
  std::vector<uint8_t> codes(static_cast<size_t>(layer.n * layer.k));
  for (uint8_t& byte : codes) byte = static_cast<uint8_t>((*generator)());
  QuantState state;
  state.block_size = 64;
  const bool by_row = layer.type == WeightType::kInt8Rows;
  state.absmax.assign(static_cast<size_t>(by_row ? layer.n : layer.n * layer.k / 64), 0.1f);
  return kernels::pack_quantized(layer.type, state, codes.data(), layer.n, layer.k, precision);
}

Model make_model(const std::vector<Layer>& layers, int copies, Precision precision) {
  std::mt19937 generator(1);
  Model model;
  for (int copy = 0; copy < copies; ++copy) {
    for (const Layer& layer : layers) {
      model.weights.push_back(random_matrix(layer, precision, &generator));
      model.bytes += model.weights.back()->bytes();
      model.multiplies += layer.n * layer.k;
      model.max_n = std::max(model.max_n, layer.n);
      model.max_k = std::max(model.max_k, layer.k);
    }
  }
  return model;
}

// Largest difference to the plain version relative to the largest output, over the first weights.
double parity(const Model& model, const std::vector<float>& x, int64_t m, size_t weights) {
  double worst = 0.0;
  for (size_t i = 0; i < std::min(weights, model.weights.size()); ++i) {
    const PackedMatrix& w = *model.weights[i];
    std::vector<float> y(static_cast<size_t>(m * w.n()));
    std::vector<float> reference(y.size());
    kernels::matmul(w, x.data(), m, w.k(), y.data(), w.n());
    kernels::matmul_reference(w, x.data(), m, w.k(), reference.data(), w.n());
    double largest = 0.0;
    double difference = 0.0;
    for (size_t j = 0; j < y.size(); ++j) {
      largest = std::max(largest, std::fabs(double{reference[j]}));
      difference = std::max(difference, std::fabs(double{y[j]} - reference[j]));
    }
    worst = std::max(worst, difference / largest);
  }
  return worst;
}

void run(const std::string& name, const Model& model, int64_t m, int64_t passages) {
  std::mt19937 generator(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(m * model.max_k));
  for (float& value : x) value = normal(generator);
  std::vector<float> y(static_cast<size_t>(m * model.max_n));
  const double difference = parity(model, x, std::min<int64_t>(m, 7), 7);
  if (!(difference < 1e-4)) {
    std::printf("%-12s WRONG: relative difference to the plain version %.2e\n", name.c_str(),
                difference);
    return;
  }
  const bench::Timing t = bench::time_calls([&] {
    for (const auto& w : model.weights) {
      kernels::matmul(*w, x.data(), m, w->k(), y.data(), w->n());
    }
  });
  const double flop = 2.0 * static_cast<double>(model.multiplies * m);
  const double units = passages > 0 ? static_cast<double>(passages) : static_cast<double>(m);
  std::printf(
      "%-12s m %4lld  %8.3f ms (best %8.3f, cpu %8.3f)  %5.1f GB/s  %7.1f GFLOP/s  %8.1f %s/s "
      "(best %8.1f, by cpu time %8.1f)  parity %.0e\n",
      name.c_str(), static_cast<long long>(m), t.median * 1e3, t.best * 1e3, t.best_cpu * 1e3,
      static_cast<double>(model.bytes) / t.median / 1e9, flop / t.median / 1e9, units / t.median,
      passages > 0 ? "passages" : "tokens", units / t.best, units / t.best_cpu, difference);
  std::fflush(stdout);
}

// Forward and backward as training computes them.
void run_train(const Model& model, int64_t m) {
  std::mt19937 generator(2);
  std::normal_distribution<float> normal;
  const auto bits = kernels::ActivationBits::k8;
  const int64_t width = std::max(model.max_k, model.max_n);
  std::vector<float> x(static_cast<size_t>(m * width));
  for (float& value : x) value = normal(generator);
  std::vector<float> y(x.size());
  const auto report = [&](const char* name, const bench::Timing& t) {
    const double flop = 2.0 * static_cast<double>(model.multiplies * m);
    std::printf("%-12s m %4lld  %8.3f ms (best %8.3f)  %7.1f GOP/s (best %7.1f)\n", name,
                static_cast<long long>(m), t.median * 1e3, t.best * 1e3, flop / t.median / 1e9,
                flop / t.best / 1e9);
  };
  report("forward", bench::time_calls([&] {
           for (const auto& w : model.weights) {
             kernels::matmul(*w, x.data(), m, w->k(), y.data(), w->n(), bits);
           }
         }));
  report("backward", bench::time_calls([&] {
           for (const auto& w : model.weights) {
             kernels::matmul_transposed(*w, x.data(), m, w->n(), y.data(), w->k(), bits);
           }
         }));
}

bool wanted(int argc, char** argv, const std::string& name) {
  for (int i = 1; i < argc; ++i) {
    if (name == argv[i]) return true;
  }
  return argc == 1;
}

// SmolLM2-135M with layers of one type. `name` asks for both works; else their own names do.
void run_language_model(int argc, char** argv, WeightType type, Precision precision,
                        const std::string& name) {
  const std::vector<Layer> layers = {{type, 576, 576}, {type, 192, 576},  {type, 192, 576},
                                     {type, 576, 576}, {type, 1536, 576}, {type, 1536, 576},
                                     {type, 576, 1536}};
  const bool decode = wanted(argc, argv, name.empty() ? "decode" : name);
  const bool prefill = wanted(argc, argv, name.empty() ? "prefill" : name);
  const bool train = wanted(argc, argv, name.empty() ? "train" : name);
  if (!decode && !prefill && !train) return;
  Model model = make_model(layers, 30, precision);
  if (train) {
    for (const int64_t m : {512, 2048}) run_train(model, m);
  }
  if (prefill) {
    for (const int64_t m : {128, 512}) run("prefill " + name, model, m, 0);
  }
  if (!decode) return;
  Model head = make_model({{WeightType::kQ8_0, 49152, 576}}, 1, precision);
  model.weights.push_back(std::move(head.weights[0]));
  model.bytes += head.bytes;
  model.multiplies += head.multiplies;
  model.max_n = head.max_n;
  for (const int64_t m : {1, 2, 3, 4, 5, 6, 8}) run("decode " + name, model, m, 0);
}

int run_all(int argc, char** argv) {
  std::printf("isa %s, %d threads\n", cpu_isa_name(cpu_isa()), num_threads());
  run_language_model(argc, argv, WeightType::kQ4_1, Precision::kFast, "");
  run_language_model(argc, argv, WeightType::kNF4, Precision::kFast, "nf4");
  run_language_model(argc, argv, WeightType::kInt8Rows, Precision::kFast, "int8");
  run_language_model(argc, argv, WeightType::kQ4_0, Precision::kFast8, "q4_0-8");
  run_language_model(argc, argv, WeightType::kQ4_1, Precision::kFast8, "q4_1-8");
  run_language_model(argc, argv, WeightType::kNF4, Precision::kFast8, "nf4-8");
  const WeightType f32 = WeightType::kF32;
  const std::vector<Layer> minilm = {{f32, 384, 384}, {f32, 384, 384},  {f32, 384, 384},
                                     {f32, 384, 384}, {f32, 1536, 384}, {f32, 384, 1536}};
  if (wanted(argc, argv, "embed")) {
    const Model model = make_model(minilm, 6, Precision::kFast);
    run("embed", model, 165, 1);
    run("embed", model, 165 * 16, 16);
  }
  if (wanted(argc, argv, "exact")) {
    const Model model = make_model(minilm, 6, Precision::kExact);
    run("exact", model, 165, 1);
  }
  return 0;
}

}  // namespace
}  // namespace quarry

int main(int argc, char** argv) { return quarry::run_all(argc, argv); }
