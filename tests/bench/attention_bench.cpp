// Speed of attention on the shapes of the default models.
//   decode   1 query over S keys, SmolLM2-135M (9 heads, 3 kv heads, 64), half cache, 30 layers
//   tiles    the same over tiles of bfloat16, each layer its own
//   prefill  512 queries, the same
//   embed    165 tokens, all-MiniLM-L6-v2 (12 heads of 32), float32, 6 layers
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "data/core/cpu_isa.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/attention.h"
#include "generator/kernels/key_value_tiles.h"
#include "tests/bench/bench_util.h"

namespace quarry {
namespace {

void print(const char* name, const kernels::AttentionShape& shape, const bench::Timing& t,
           int layers, const std::vector<float>& out) {
  double worst = 0.0;
  for (const float value : out) worst = std::max(worst, std::fabs(double{value} - 1.0));
  std::printf(
      "%-8s T %4lld S %5lld  %8.3f ms a call  best %8.3f cpu %8.3f %8.3f ms in %d layers%s\n", name,
      static_cast<long long>(shape.num_queries), static_cast<long long>(shape.num_keys),
      t.median * 1e3, t.best * 1e3, t.best_cpu * 1e3, t.median * 1e3 * layers, layers,
      worst < 1e-5 ? "" : "  WRONG");
  std::fflush(stdout);
}

// Of all layers in turn, so that none is in the processor's cache from the last call.
void run_tiles(const kernels::AttentionShape& shape, int layers) {
  const int64_t part = kernels::kTileKeys * shape.num_kv_heads * shape.head_dim;
  const int64_t tiles = (shape.num_keys + kernels::kTileKeys - 1) / kernels::kTileKeys;
  const int64_t page = 2 * layers * part;
  std::vector<uint16_t> pages(static_cast<size_t>(tiles * page), 0x3f80);  // all 1
  std::vector<const uint16_t*> starts;
  for (int64_t i = 0; i < tiles; ++i) starts.push_back(pages.data() + i * page);
  const std::vector<float> q(static_cast<size_t>(shape.num_queries * shape.ldq), 0.5f);
  std::vector<float> out(q.size());
  int64_t layer = 0;
  const bench::Timing t = bench::time_calls([&] {
    const kernels::KeyValueTiles kv = {starts.data(), starts.data(), 2 * layer * part,
                                       (2 * layer + 1) * part};
    kernels::attention(shape, q.data(), kv, out.data());
    layer = (layer + 1) % layers;
  });
  print("tiles", shape, t, layers, out);
}

template <typename T>
void run(const char* name, const kernels::AttentionShape& shape, int layers, T one) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(static_cast<size_t>(shape.num_queries * shape.ldq));
  for (float& value : q) value = normal(generator);
  // Equal keys and values: every output must come out as the value itself.
  std::vector<T> kv(static_cast<size_t>(shape.num_keys * shape.ldk), one);
  std::vector<float> out(q.size());
  const bench::Timing t = bench::time_calls(
      [&] { kernels::attention(shape, q.data(), kv.data(), kv.data(), out.data()); });
  print(name, shape, t, layers, out);
}

kernels::AttentionShape make_shape(int64_t queries, int64_t keys, int64_t heads, int64_t kv_heads,
                                   int64_t head_dim) {
  kernels::AttentionShape shape;
  shape.num_queries = queries;
  shape.num_keys = keys;
  shape.num_heads = heads;
  shape.num_kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.ldq = shape.ldo = heads * head_dim;
  shape.ldk = kv_heads * head_dim;
  shape.scale = 0.125f;
  return shape;
}

int run_all() {
  std::printf("isa %s, %d threads\n", cpu_isa_name(cpu_isa()), num_threads());
  const uint16_t half_one = 0x3c00;
  for (const int64_t keys : {64, 512, 2048, 4096}) {
    run_tiles(make_shape(1, keys, 9, 3, 64), 30);
    run("decode", make_shape(1, keys, 9, 3, 64), 30, half_one);
  }
  run_tiles(make_shape(512, 512, 9, 3, 64), 30);
  run("prefill", make_shape(512, 512, 9, 3, 64), 30, half_one);
  kernels::AttentionShape embed = make_shape(165, 165, 12, 12, 32);
  embed.causal = false;
  run("embed", embed, 6, 1.0f);
  return 0;
}

}  // namespace
}  // namespace quarry

int main() { return quarry::run_all(); }
