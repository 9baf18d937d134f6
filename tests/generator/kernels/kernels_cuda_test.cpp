// The CUDA kernels against the CPU. Built twice: for a GPU (kernels_cuda_test) and, on
// tests/support/cuda_host, for the CPU (kernels_cuda_host_test), where the same kernels run as
// plain C++.
#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "data/core/error.h"
#include "generator/kernels/activations.h"
#include "generator/kernels/attention.h"
#include "generator/kernels/cuda_twins.h"
#include "generator/kernels/elementwise.h"
#include "generator/quant/four_bit.h"
#include "generator/quant/half.h"
#include "generator/quant/int8_rows.h"
#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

class CudaKernels : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
      GTEST_SKIP() << "no CUDA device on this machine";
    }
  }
};

// Values on the device.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : count_(values.size()) {
    EXPECT_EQ(cudaMalloc(&data_, std::max<size_t>(1, count_ * sizeof(T))), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* data() const { return static_cast<T*>(data_); }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  size_t count_;
  void* data_ = nullptr;
};
using DeviceFloats = OnDevice<float>;

// What no kernel may leave where it has to write.
std::vector<float> poison(int64_t count) {
  return std::vector<float>(static_cast<size_t>(count), std::nanf(""));
}

std::vector<uint8_t> scratch_of(int64_t bytes) {
  return std::vector<uint8_t>(static_cast<size_t>(bytes), 0xff);
}

// ---- Products ----

std::unique_ptr<PackedMatrix> random_matrix(WeightType type, int64_t n, int64_t k,
                                            int64_t block_size = 64) {
  const auto count = static_cast<size_t>(n * k);
  if (type == WeightType::kInt8Rows) {
    const Int8Rows rows = quantize_int8_rows(random_floats(n * k, 3, 0.05f).data(), n, k);
    return pack_quantized(type, rows.state, rows.codes.data(), n, k, Precision::kFast);
  }
  if (needs_quant_state(type)) {
    FourBitOptions options;
    options.type = type;
    options.block_size = block_size;
    const FourBitCodes coded =
        quantize_four_bit(random_floats(n * k, 3, 0.05f).data(), n * k, options);
    return pack_quantized(type, coded.state, coded.codes.data(), n, k, Precision::kFast);
  }
  const WeightTypeTraits& traits = weight_type_traits(type);
  std::vector<uint8_t> bytes(static_cast<size_t>(weight_bytes(type, n * k)));
  std::mt19937 generator(3);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(generator());
  for (size_t b = 0; b < count / static_cast<size_t>(traits.block_size); ++b) {
    // A scale of its own for each block, so that a wrong one shows.
    const uint16_t scale = quant::float_to_half(0.01f + 0.001f * static_cast<float>(b % 17));
    const uint16_t offset = quant::float_to_half(-0.08f + 0.01f * static_cast<float>(b % 5));
    uint8_t* field = bytes.data() + b * static_cast<size_t>(traits.bytes_per_block);
    if (type == WeightType::kQ6_K) field += 208;
    std::memcpy(field, &scale, 2);
    const bool has_offset = type == WeightType::kQ4_1 || type == WeightType::kQ5_1 ||
                            type == WeightType::kQ4_K || type == WeightType::kQ5_K;
    if (has_offset) std::memcpy(field + 2, &offset, 2);
  }
  return pack_matrix(type, bytes.data(), n, k, Precision::kFast);
}

enum class Product { kGemv, kGemm };

struct Inputs {
  int64_t m;
  std::vector<float> x;  // [m, ldx]
  int64_t ldx;
  int64_t ldy;
};

Inputs random_inputs(int64_t m, int64_t n, int64_t k) {
  Inputs inputs = {m, random_floats(m * (k + 4), 4), k + 4, n + 3};
  // Rows of very different size: each has its own factor.
  for (int64_t row = 0; row < m; ++row) {
    const float size = row % 3 == 0 ? 1.0f : row % 3 == 1 ? 1e-6f : 3e5f;
    for (int64_t i = 0; i < inputs.ldx; ++i) inputs.x[row * inputs.ldx + i] *= size;
  }
  return inputs;
}

// y [m, ldy]; what lies between the rows stays NaN.
std::vector<float> multiply(Product product, const PackedMatrix& packed, const Inputs& in) {
  const cuda::DeviceMatrix weight(packed);
  const DeviceFloats x(in.x);
  const DeviceFloats y(poison(in.m * in.ldy));
  if (product == Product::kGemv) {
    cuda::gemv(weight, x.data(), in.m, in.ldx, y.data(), in.ldy, nullptr);
  } else {
    const OnDevice<uint8_t> scratch(scratch_of(cuda::gemm_scratch_bytes(in.m, packed.k())));
    cuda::gemm(weight, x.data(), in.m, in.ldx, y.data(), in.ldy, scratch.data(), nullptr);
  }
  return y.read();
}

// Against products in double of the weights that the CPU decodes. Both factors of a product are
// rounded to 11 bits, which may cost 2^-11 of it; sums in float32 of a few hundred cost far less.
void expect_product(Product product, WeightType type, int64_t m, int64_t n, int64_t k,
                    int64_t block_size = 64) {
  SCOPED_TRACE(testing::Message() << weight_type_traits(type).name << " m " << m << " n " << n
                                  << " k " << k << " block " << block_size);
  const auto packed = random_matrix(type, n, k, block_size);
  const Inputs in = random_inputs(m, n, k);
  const std::vector<float> y = multiply(product, *packed, in);
  std::vector<float> w(static_cast<size_t>(k));
  for (int64_t column = 0; column < n; ++column) {
    decode_row(*packed, column, w.data());
    for (int64_t row = 0; row < m; ++row) {
      double total = 0.0;
      double magnitude = 0.0;
      for (int64_t i = 0; i < k; ++i) {
        total += double{w[i]} * in.x[row * in.ldx + i];
        magnitude += std::fabs(double{w[i]} * in.x[row * in.ldx + i]);
      }
      ASSERT_NEAR(y[row * in.ldy + column], total, 0x1p-11 * magnitude)
          << "row " << row << " column " << column;
    }
  }
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t i = n; i < in.ldy; ++i) ASSERT_TRUE(std::isnan(y[row * in.ldy + i]));
  }
}

constexpr WeightType kIntegerTypes[] = {WeightType::kQ4_0, WeightType::kQ4_1,    WeightType::kQ5_0,
                                        WeightType::kQ5_1, WeightType::kQ8_0,    WeightType::kQ4_K,
                                        WeightType::kQ5_K, WeightType::kQ6_K,    WeightType::kNF4,
                                        WeightType::kFP4,  WeightType::kInt8Rows};

TEST_F(CudaKernels, GemvMatchesDoubleForEveryFormat) {
  for (const WeightType type : kIntegerTypes) {
    expect_product(Product::kGemv, type, 1, 67, 1280);
    expect_product(Product::kGemv, type, 3, 16, 256);
    expect_product(Product::kGemv, type, 8, 17, 512);
  }
}

TEST_F(CudaKernels, GemvTakesRowsThatEndWithinAChunk) {
  for (const WeightType type : {WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ8_0,
                                WeightType::kNF4, WeightType::kInt8Rows}) {
    for (const int64_t k : {32, 96, 576, 1120}) expect_product(Product::kGemv, type, 2, 33, k);
  }
  expect_product(Product::kGemv, WeightType::kNF4, 2, 33, 128, 32);
  expect_product(Product::kGemv, WeightType::kFP4, 2, 33, 128, 128);
}

TEST_F(CudaKernels, GemmMatchesDoubleForEveryFormat) {
  for (const WeightType type : kIntegerTypes) {
    expect_product(Product::kGemm, type, 1, 17, 256);
    expect_product(Product::kGemm, type, 33, 67, 256);
  }
}

TEST_F(CudaKernels, GemmTakesRowsThatEndWithinAChunk) {
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ8_0, WeightType::kNF4}) {
    for (const int64_t k : {32, 96, 224}) expect_product(Product::kGemm, type, 9, 33, k);
  }
}

// Small tiles are taken where large ones would leave multiprocessors without work.
TEST_F(CudaKernels, GemmOfEveryTileSizeMatchesDouble) {
  int processors = 0;
  ASSERT_EQ(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0), cudaSuccess);
  for (const auto& [type, k] : {std::pair<WeightType, int64_t>{WeightType::kQ4_1, 288},
                                {WeightType::kQ8_0, 96},
                                {WeightType::kNF4, 128},
                                {WeightType::kQ6_K, 256}}) {
    expect_product(Product::kGemm, type, 64 * processors - 10, 64, k);
    expect_product(Product::kGemm, type, 64 * processors + 10, 129, k);
  }
}

TEST_F(CudaKernels, ARowOfAProductDoesNotDependOnTheOthers) {
  const auto packed = random_matrix(WeightType::kQ4_1, 50, 320);
  for (const Product product : {Product::kGemv, Product::kGemm}) {
    const int64_t rows = product == Product::kGemv ? 8 : 150;
    const Inputs all = random_inputs(rows, 50, 320);
    const std::vector<float> expected = multiply(product, *packed, all);
    for (const int64_t row : {int64_t{0}, int64_t{5}, rows - 1}) {
      Inputs one = all;
      one.m = 1;
      one.x.assign(all.x.begin() + row * all.ldx, all.x.begin() + (row + 1) * all.ldx);
      const std::vector<float> actual = multiply(product, *packed, one);
      for (int64_t i = 0; i < 50; ++i) ASSERT_EQ(actual[i], expected[row * all.ldy + i]);
    }
  }
}

TEST_F(CudaKernels, ZeroRowsAndNanAreKept) {
  const auto packed = random_matrix(WeightType::kQ4_0, 16, 64);
  Inputs in = {3, std::vector<float>(3 * 64, 0.0f), 64, 16};
  in.x[64 + 7] = std::nanf("");
  in.x[128] = INFINITY;
  for (const Product product : {Product::kGemv, Product::kGemm}) {
    const std::vector<float> y = multiply(product, *packed, in);
    for (int64_t i = 0; i < 16; ++i) {
      EXPECT_EQ(y[i], 0.0f);
      EXPECT_TRUE(std::isnan(y[16 + i]));
      EXPECT_TRUE(std::isnan(y[32 + i]));
    }
  }
}

TEST_F(CudaKernels, ShapesThatDoNotFitThrow) {
  const cuda::DeviceMatrix weight(*random_matrix(WeightType::kQ4_0, 16, 64));
  EXPECT_THAT([&] { cuda::gemv(weight, nullptr, 9, 64, nullptr, 16, nullptr); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("want at most 8 rows")));
  EXPECT_THAT([&] { cuda::gemm(weight, nullptr, 9, 63, nullptr, 16, nullptr, nullptr); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("at least 64")));
}

// Dense weights become bytes with a scale for each 64: a weight moves by up to half a step, 1 / 127
// of the largest of its block, which is some 0.15 here; five standard deviations of their sum.
TEST_F(CudaKernels, DenseMatricesAreRoundedToBytes) {
  for (const int64_t k : {64, 100, 260}) {
    const int64_t n = 33;
    const auto values = random_floats(n * k, 3, 0.05f);
    for (const Precision precision : {Precision::kFast, Precision::kExact}) {
      const auto packed = pack_matrix(WeightType::kF32, values.data(), n, k, precision);
      const Inputs in = {3, random_floats(3 * (k + 4), 4), k + 4, n + 3};
      for (const Product product : {Product::kGemv, Product::kGemm}) {
        const std::vector<float> y = multiply(product, *packed, in);
        for (int64_t row = 0; row < in.m; ++row) {
          for (int64_t column = 0; column < n; ++column) {
            double expected = 0.0;
            for (int64_t i = 0; i < k; ++i) {
              expected += double{in.x[row * in.ldx + i]} * values[column * k + i];
            }
            ASSERT_NEAR(y[row * in.ldy + column], expected, 1.7e-3 * std::sqrt(double(k)))
                << "k " << k << ", row " << row << ", column " << column;
          }
        }
      }
    }
  }
}

TEST_F(CudaKernels, DeviceMatrixTakesAsManyBytesAsTheCpus) {
  for (const WeightType type : {WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ8_0}) {
    const auto packed = random_matrix(type, 64, 256);
    EXPECT_EQ(cuda::DeviceMatrix(*packed).bytes(), packed->bytes() + 64 * 4);
  }
}

// ---- Attention ----

struct AttentionCase {
  int64_t queries, keys, heads, kv_heads, head_dim;
  bool causal = true;
  int64_t window = 0;
};

// Keys and values of one sequence, contiguous for the CPU, in pages for the GPU.
struct PagedKeys {
  PagedKeys(int64_t keys, int64_t width, unsigned seed)
      : k(static_cast<size_t>(keys * width)), v(k.size()) {
    float_to_half(random_floats(keys * width, seed).data(), keys * width, k.data());
    float_to_half(random_floats(keys * width, seed + 1).data(), keys * width, v.data());
    const auto part = static_cast<size_t>(cuda::kPageKeys * width);
    constexpr uint16_t kNan = 0x7e00;  // what lies past the last key counts for nothing
    for (size_t first = 0; first < k.size(); first += part) {
      std::vector<uint16_t> page(2 * part, kNan);
      const size_t count = std::min(part, k.size() - first);
      std::copy_n(k.begin() + first, count, page.begin());
      std::copy_n(v.begin() + first, count, page.begin() + part);
      pages.push_back(std::make_unique<OnDevice<uint16_t>>(page));
    }
  }
  std::vector<uint16_t> k, v;
  std::vector<std::unique_ptr<OnDevice<uint16_t>>> pages;
};

// Rounding q and the weights to 11 bits moves a score s = sum(q k) by some 2^-12 of it and a weight
// by as much again: with scores of unit variance the output moves by about 1e-3 of the values'
// spread, less the more keys share in it. `cases` are the sequences of one step: they differ in
// queries and keys alone. Returns the output.
std::vector<float> expect_attention(const std::vector<AttentionCase>& cases) {
  const AttentionCase& c = cases.front();
  SCOPED_TRACE(testing::Message() << c.queries << " queries, " << c.keys << " keys, " << c.heads
                                  << "/" << c.kv_heads << " heads of " << c.head_dim << ", window "
                                  << c.window << ", causal " << c.causal);
  const int64_t kv_width = c.kv_heads * c.head_dim;
  cuda::PagedAttention paged;
  paged.num_heads = c.heads;
  paged.num_kv_heads = c.kv_heads;
  paged.head_dim = c.head_dim;
  paged.ldq = c.heads * c.head_dim + 2 * kv_width;
  paged.ldo = c.heads * c.head_dim + 4;
  paged.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  paged.causal = c.causal;
  paged.window = c.window;
  paged.v_offset = cuda::kPageKeys * kv_width;
  std::vector<std::unique_ptr<PagedKeys>> caches;
  std::vector<const uint16_t*> pages;
  std::vector<cuda::AttentionSequence> sequences;
  int64_t rows = 0;
  for (const AttentionCase& sequence : cases) {
    const auto seed = static_cast<unsigned>(2 + 2 * caches.size());
    caches.push_back(std::make_unique<PagedKeys>(sequence.keys, kv_width, seed));
    for (const auto& page : caches.back()->pages) pages.push_back(page->data());
    sequences.push_back({sequence.queries, sequence.keys});
    rows += sequence.queries;
  }
  const auto q = random_floats(rows * paged.ldq, 1);
  std::vector<float> expected = poison(rows * paged.ldo);
  int64_t row = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    AttentionShape shape;
    shape.num_queries = cases[i].queries;
    shape.num_keys = cases[i].keys;
    shape.num_heads = c.heads;
    shape.num_kv_heads = c.kv_heads;
    shape.head_dim = c.head_dim;
    shape.ldq = paged.ldq;
    shape.ldk = kv_width;
    shape.ldo = paged.ldo;
    shape.scale = paged.scale;
    shape.causal = c.causal;
    shape.window = c.window;
    attention(shape, q.data() + row * shape.ldq, caches[i]->k.data(), caches[i]->v.data(),
              expected.data() + row * shape.ldo);
    row += shape.num_queries;
  }
  const cuda::AttentionPlan plan = cuda::plan_attention(sequences, c.heads / c.kv_heads);
  const OnDevice<cuda::PagedSequence> device_sequences(plan.sequences);
  const OnDevice<cuda::AttentionTile> device_tiles(plan.tiles);
  const OnDevice<const uint16_t*> device_pages(pages);
  paged.sequences = device_sequences.data();
  paged.tiles = device_tiles.data();
  paged.pages = device_pages.data();
  const DeviceFloats out(poison(rows * paged.ldo));
  const OnDevice<uint8_t> scratch(
      scratch_of(cuda::attention_scratch_bytes(plan, c.kv_heads, c.head_dim)));
  cuda::attention(plan, paged, DeviceFloats(q).data(), out.data(), scratch.data(), nullptr);
  const std::vector<float> actual = out.read();
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t i = 0; i < c.heads * c.head_dim; ++i) {
      const int64_t at = t * paged.ldo + i;
      EXPECT_NEAR(actual[at], expected[at], 2e-3) << "query " << t << " element " << i;
    }
    for (int64_t i = c.heads * c.head_dim; i < paged.ldo; ++i) {
      EXPECT_TRUE(std::isnan(actual[t * paged.ldo + i]));
    }
  }
  return actual;
}

TEST_F(CudaKernels, AttentionOfPromptsMatchesTheCpu) {
  for (const AttentionCase& c :
       {AttentionCase{1, 1, 1, 1, 64}, AttentionCase{70, 70, 9, 3, 64},
        AttentionCase{33, 97, 4, 1, 64}, AttentionCase{65, 130, 4, 2, 128},
        AttentionCase{40, 70, 2, 1, 256}, AttentionCase{20, 20, 2, 2, 80},
        AttentionCase{17, 40, 3, 1, 96}, AttentionCase{12, 30, 2, 1, 16}}) {
    expect_attention({c});
  }
}

TEST_F(CudaKernels, AttentionOfOneQueryMatchesTheCpu) {
  for (const AttentionCase& c :
       {AttentionCase{1, 1500, 9, 3, 64}, AttentionCase{1, 300, 8, 2, 128},
        AttentionCase{3, 700, 4, 1, 64}, AttentionCase{1, 261, 4, 4, 256}}) {
    expect_attention({c});
  }
}

TEST_F(CudaKernels, AttentionMasksAsTheCpuDoes) {
  for (const AttentionCase& c :
       {AttentionCase{50, 50, 2, 1, 64, false}, AttentionCase{40, 300, 2, 1, 64, false},
        AttentionCase{60, 150, 2, 1, 64, true, 20}, AttentionCase{1, 600, 3, 1, 64, true, 300},
        AttentionCase{130, 400, 1, 1, 64, true, 100},
        // Most ranges of keys lie before the window.
        AttentionCase{1, 5000, 2, 1, 64, true, 20}}) {
    expect_attention({c});
  }
}

TEST_F(CudaKernels, AttentionOfASequenceIsTheSameBesideOthers) {
  const AttentionCase first = {1, 700, 4, 2, 64};
  const std::vector<float> alone = expect_attention({first});
  const std::vector<float> together = expect_attention(
      {first, {40, 90, 4, 2, 64}, {1, 64, 4, 2, 64}, {3, 1300, 4, 2, 64}, {1, 65, 4, 2, 64}});
  for (int64_t i = 0; i < 4 * 64; ++i) ASSERT_EQ(alone[i], together[i]) << i;
}

TEST_F(CudaKernels, AttentionOfUnfitShapesThrows) {
  EXPECT_THAT(
      [] {
        cuda::plan_attention({{3, 2}}, 1);
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("3 queries of 2 keys")));
  cuda::PagedAttention shape;
  shape.num_heads = shape.num_kv_heads = 1;
  shape.head_dim = 36;
  EXPECT_THAT(
      [&] {
        cuda::attention(cuda::plan_attention({{1, 1}}, 1), shape, nullptr, nullptr, nullptr,
                        nullptr);
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("head_dim 36")));
}

TEST_F(CudaKernels, KeysAndValuesAreStoredAsHalves) {
  const int64_t rows = 3;
  const int64_t width = 600;
  const int64_t ld = 2 * width + 4;
  const auto x = random_floats(rows * ld, 1);
  const DeviceFloats device_x(x);
  const OnDevice<uint16_t> page(std::vector<uint16_t>(static_cast<size_t>(8 * width), 7));
  // Slots 2, 0 and 1 of a page of four tokens.
  const OnDevice<uint16_t*> slots({page.data() + 2 * width, page.data(), page.data() + width});
  cuda::store_key_values(device_x.data(), device_x.data() + width, ld, rows, width, slots.data(), 0,
                         4 * width, nullptr);
  const std::vector<uint16_t> actual = page.read();
  const int64_t slot_of_row[] = {2, 0, 1};
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < width; ++i) {
      const int64_t at = slot_of_row[row] * width + i;
      ASSERT_EQ(actual[at], quant::float_to_half(x[row * ld + i]));
      ASSERT_EQ(actual[4 * width + at], quant::float_to_half(x[row * ld + width + i]));
    }
  }
  for (int64_t i = 3 * width; i < 4 * width; ++i) ASSERT_EQ(actual[i], 7);
}

// ---- Norms, activations, rope ----

// Same float32 formulas in another order of summation.
void expect_close(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], 1e-5 * (1.0 + std::fabs(expected[i]))) << i;
  }
}

TEST_F(CudaKernels, NormsMatchTheCpu) {
  const int64_t rows = 5;
  for (const int64_t width : {1, 31, 255, 256, 257, 576}) {
    SCOPED_TRACE(width);
    const auto x = random_floats(rows * width, 1);
    const auto weight = random_floats(width, 2);
    const auto bias = random_floats(width, 3);
    const DeviceFloats device_weight(weight);
    const DeviceFloats device_bias(bias);
    std::vector<float> expected(x.size());
    rms_norm(x.data(), weight.data(), 1e-5f, rows, width, expected.data());
    const DeviceFloats in_place(x);
    cuda::rms_norm(in_place.data(), device_weight.data(), 1e-5f, rows, width, in_place.data(),
                   nullptr);
    expect_close(in_place.read(), expected);
    for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
      layer_norm(x.data(), weight.data(), b, 1e-5f, rows, width, expected.data());
      const DeviceFloats out(poison(rows * width));
      cuda::layer_norm(DeviceFloats(x).data(), device_weight.data(),
                       b == nullptr ? nullptr : device_bias.data(), 1e-5f, rows, width, out.data(),
                       nullptr);
      expect_close(out.read(), expected);
    }
  }
}

TEST_F(CudaKernels, HeadNormMatchesTheCpu) {
  const int64_t rows = 3;
  const int64_t heads = 4;
  for (const int64_t head_dim : {8, 64, 100}) {
    const int64_t ldx = heads * head_dim + 4;
    const auto x = random_floats(rows * ldx, 1);
    const auto weight = random_floats(head_dim, 2);
    std::vector<float> expected = x;
    for (int64_t row = 0; row < rows; ++row) {
      float* first = expected.data() + row * ldx;
      rms_norm(first, weight.data(), 1e-6f, heads, head_dim, first);
    }
    const DeviceFloats actual(x);
    cuda::head_norm(actual.data(), DeviceFloats(weight).data(), 1e-6f, rows, heads, head_dim, ldx,
                    nullptr);
    expect_close(actual.read(), expected);
  }
}

TEST_F(CudaKernels, GatedProductsMatchTheCpu) {
  for (const int64_t width : {1, 255, 256, 3001}) {
    const int64_t rows = 2;
    const auto gate_up = random_floats(rows * 2 * width, 1, 20.0f);
    for (const cuda::Gate gate : {cuda::Gate::kSilu, cuda::Gate::kGeluTanh}) {
      std::vector<float> expected(static_cast<size_t>(rows * width));
      for (int64_t row = 0; row < rows; ++row) {
        const float* first = gate_up.data() + row * 2 * width;
        const auto multiply = gate == cuda::Gate::kSilu ? silu_mul : gelu_tanh_mul;
        multiply(first, first + width, width, expected.data() + row * width);
      }
      const DeviceFloats out(poison(rows * width));
      cuda::gated_product(gate, DeviceFloats(gate_up).data(), rows, width, out.data(), nullptr);
      const std::vector<float> actual = out.read();
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(actual[i], expected[i], 1e-5 * (400.0 + std::fabs(expected[i]))) << i;
      }
    }
  }
}

TEST_F(CudaKernels, GeluMatchesTheCpu) {
  const auto x = random_floats(3001, 1, 5.0f);
  std::vector<float> expected(x.size());
  gelu(x.data(), 3001, expected.data());
  const DeviceFloats actual(x);
  cuda::gelu(actual.data(), 3001, nullptr);
  expect_close(actual.read(), expected);
}

TEST_F(CudaKernels, SumsAndRowsAreTheCpus) {
  const int64_t width = 300;
  const auto x = random_floats(4 * width, 1);
  const auto y = random_floats(4 * width, 2);
  const DeviceFloats sum(y);
  cuda::add(DeviceFloats(x).data(), 4 * width, sum.data(), nullptr);
  const DeviceFloats biased(y);
  cuda::add_bias(DeviceFloats(x).data(), 4, width, biased.data(), nullptr);
  const DeviceFloats rows(poison(2 * width));
  cuda::gather_rows(DeviceFloats(x).data(), OnDevice<int32_t>({3, 1}).data(), 2, width, rows.data(),
                    nullptr);
  for (int64_t i = 0; i < 4 * width; ++i) {
    ASSERT_EQ(sum.read()[i], x[i] + y[i]);
    ASSERT_EQ(biased.read()[i], x[i % width] + y[i]);
  }
  for (int64_t i = 0; i < width; ++i) {
    ASSERT_EQ(rows.read()[i], x[3 * width + i]);
    ASSERT_EQ(rows.read()[width + i], x[width + i]);
  }
}

TEST_F(CudaKernels, RopeMatchesTheCpu) {
  const std::vector<int32_t> positions = {3, 0, 11};
  for (const RopePairing pairing : {RopePairing::kHalf, RopePairing::kInterleaved}) {
    for (const auto& [head_dim, rotary_dim] :
         {std::pair<int64_t, int64_t>{2, 2}, {64, 64}, {96, 96}, {96, 32}}) {
      const int64_t heads = 7;
      const int64_t ldx = heads * head_dim + 5;
      const auto x = random_floats(3 * ldx, 1);
      const auto cosine = random_floats(12 * rotary_dim / 2, 2);
      const auto sine = random_floats(12 * rotary_dim / 2, 3);
      std::vector<float> expected = x;
      for (int64_t head = 0; head < heads; ++head) {
        rope(expected.data() + head * head_dim, positions.data(), 3, 1, rotary_dim, ldx,
             cosine.data(), sine.data(), pairing);
      }
      const DeviceFloats actual(x);
      cuda::rope(actual.data(), OnDevice<int32_t>(positions).data(), 3, heads, head_dim, rotary_dim,
                 ldx, DeviceFloats(cosine).data(), DeviceFloats(sine).data(), pairing, nullptr);
      expect_close(actual.read(), expected);
    }
  }
}

// ---- LoRA ----

struct Adapter {
  int64_t begin, end, rank;
  std::vector<float> a, b;
};

// Adds the adapters to poisoned-then-known rows; all in double beside it.
void expect_lora(const std::vector<Adapter>& adapters, int64_t m, int64_t n, int64_t k) {
  const int64_t ldx = k + 4;
  const int64_t ldy = n + 4;
  const auto x = random_floats(m * ldx, 1);
  const auto y = random_floats(m * ldy, 2);
  std::vector<std::unique_ptr<DeviceFloats>> weights;
  std::vector<cuda::LoraSpan> spans;
  std::vector<double> expected(y.begin(), y.end());
  for (const Adapter& adapter : adapters) {
    weights.push_back(std::make_unique<DeviceFloats>(adapter.a));
    weights.push_back(std::make_unique<DeviceFloats>(adapter.b));
    spans.push_back({adapter.begin, adapter.end, adapter.rank, weights.end()[-2]->data(),
                     weights.back()->data()});
    for (int64_t row = adapter.begin; row < adapter.end; ++row) {
      for (int64_t r = 0; r < adapter.rank; ++r) {
        double low = 0.0;
        for (int64_t i = 0; i < k; ++i) low += double{x[row * ldx + i]} * adapter.a[r * k + i];
        for (int64_t i = 0; i < n; ++i) expected[row * ldy + i] += low * adapter.b[r * n + i];
      }
    }
  }
  const DeviceFloats out(y);
  const OnDevice<uint8_t> scratch(scratch_of(cuda::lora_scratch_bytes(spans)));
  cuda::add_lora(spans, DeviceFloats(x).data(), k, ldx, out.data(), n, ldy, scratch.data(),
                 nullptr);
  const std::vector<float> actual = out.read();
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], 1e-4 * (1.0 + std::fabs(expected[i]))) << i;
  }
}

Adapter random_adapter(int64_t begin, int64_t end, int64_t rank, int64_t n, int64_t k) {
  return {begin, end, rank, random_floats(rank * k, 5, 0.1f), random_floats(rank * n, 6, 0.1f)};
}

TEST_F(CudaKernels, AdaptersOfABatchMatchDouble) {
  const int64_t n = 300;
  const int64_t k = 130;
  expect_lora({random_adapter(0, 1, 16, n, k)}, 1, n, k);
  expect_lora({random_adapter(0, 9, 16, n, k), random_adapter(11, 12, 1, n, k),
               random_adapter(12, 30, 5, n, k), random_adapter(30, 30, 8, n, k)},
              31, n, k);
  std::vector<Adapter> many;
  for (int64_t i = 0; i < 18; ++i) many.push_back(random_adapter(i, i + 1, 1 + i % 6, n, k));
  expect_lora(many, 20, n, k);
}

TEST_F(CudaKernels, AdapterOfTooHighRankThrows) {
  EXPECT_THAT(
      [] {
        cuda::add_lora({{0, 1, 1537, nullptr, nullptr}}, nullptr, 1, 4, nullptr, 1, 4, nullptr,
                       nullptr);
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("rank from 1 to 1536")));
}

}  // namespace
}  // namespace quarry::kernels
