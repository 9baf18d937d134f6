// Products with the types of bitsandbytes: NF4, FP4 and row-wise int8.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/matmul.h"
#include "generator/quant/four_bit.h"
#include "generator/quant/int8_rows.h"
#include "tests/generator/kernels/kernel_test_util.h"

namespace quarry::kernels {
namespace {

// Quantized weights [n, k], what they decode to, and the packed matrix.
struct Weights {
  std::vector<uint8_t> codes;
  QuantState state;
  std::vector<float> decoded;
  std::unique_ptr<PackedMatrix> packed;
};

struct Case {
  WeightType type;
  int64_t block_size;  // 4-bit types
  Precision precision;
};

Weights make_weights(const Case& c, int64_t n, int64_t k, uint32_t seed) {
  std::vector<float> values = random_floats(n * k, seed);
  for (float& value : values) value *= 0.05f;
  Weights weights;
  weights.decoded.resize(values.size());
  if (c.type == WeightType::kInt8Rows) {
    const Int8Rows rows = quantize_int8_rows(values.data(), n, k);
    weights.codes.assign(rows.codes.begin(), rows.codes.end());
    weights.state = rows.state;
    for (int64_t i = 0; i < n; ++i) {
      dequantize_int8_row(rows.state, rows.codes.data(), i, k, weights.decoded.data() + i * k);
    }
  } else {
    FourBitOptions options;
    options.type = c.type;
    options.block_size = c.block_size;
    FourBitCodes coded = quantize_four_bit(values.data(), n * k, options);
    weights.codes = std::move(coded.codes);
    weights.state = std::move(coded.state);
    dequantize_four_bit(c.type, weights.state, weights.codes.data(), 0, n * k,
                        weights.decoded.data());
  }
  weights.packed = pack_quantized(c.type, weights.state, weights.codes.data(), n, k, c.precision);
  if (c.block_size != 32) {
    EXPECT_EQ(weights.packed->bytes(), packed_bytes(c.type, n, k, c.precision));
  }
  return weights;
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  return std::string(weight_type_traits(info.param.type).name) + "_" +
         std::to_string(info.param.block_size) +
         (info.param.precision == Precision::kExact   ? "_exact"
          : info.param.precision == Precision::kFast8 ? "_fast8"
                                                      : "_fast");
}

class QuantizedMatmul : public testing::TestWithParam<Case> {
 protected:
  // Of a weight, relative to its block's largest.
  double tolerance(int64_t k) const {
    if (GetParam().precision == Precision::kExact) return 2e-6;
    if (k % 32 != 0) return 8e-3;  // bfloat16
    if (GetParam().precision == Precision::kFast8) return 2e-2;
    return GetParam().type == WeightType::kInt8Rows ? 2e-4 : 8e-4;
  }
};

INSTANTIATE_TEST_SUITE_P(Cases, QuantizedMatmul,
                         testing::Values(Case{WeightType::kNF4, 64, Precision::kFast},
                                         Case{WeightType::kNF4, 32, Precision::kFast},
                                         Case{WeightType::kNF4, 4096, Precision::kFast},
                                         Case{WeightType::kFP4, 64, Precision::kFast},
                                         Case{WeightType::kInt8Rows, 0, Precision::kFast},
                                         Case{WeightType::kNF4, 64, Precision::kFast8},
                                         Case{WeightType::kNF4, 32, Precision::kFast8},
                                         Case{WeightType::kFP4, 64, Precision::kFast8},
                                         Case{WeightType::kInt8Rows, 0, Precision::kFast8},
                                         Case{WeightType::kNF4, 64, Precision::kExact},
                                         Case{WeightType::kFP4, 128, Precision::kExact},
                                         Case{WeightType::kInt8Rows, 0, Precision::kExact}),
                         case_name);

TEST_P(QuantizedMatmul, EveryIsaMatchesDoubleAndReferenceAtOddSizes) {
  // 45: rows end inside bytes' blocks; 96: blocks of 64 run over row ends.
  for (const int64_t k : {32, 45, 64, 96, 320}) {
    for (const int64_t n : {1, 15, 16, 17, 67}) {
      const Weights weights = make_weights(GetParam(), n, k, static_cast<uint32_t>(n + k));
      for (const int64_t m : {1, 2, 5, 13}) {
        const auto x = random_floats(m * k, static_cast<uint32_t>(m));
        std::vector<float> reference(static_cast<size_t>(m * n));
        matmul_reference(*weights.packed, x.data(), m, k, reference.data(), n);
        for (const CpuIsa isa : runnable_isas()) {
          const ScopedIsa scoped(isa);
          std::vector<float> y(static_cast<size_t>(m * n), -77.0f);
          matmul(*weights.packed, x.data(), m, k, y.data(), n);
          for (int64_t at = 0; at < m * n; ++at) {
            double expected = 0.0;
            double size = 1e-7;
            for (int64_t j = 0; j < k; ++j) {
              const double value = x[static_cast<size_t>(at / n * k + j)];
              expected += value * weights.decoded[static_cast<size_t>(at % n * k + j)];
              size += std::fabs(value) * 0.05;
            }
            const float found = y[static_cast<size_t>(at)];
            ASSERT_NEAR(found, expected, size * tolerance(k))
                << cpu_isa_name(isa) << " n " << n << " k " << k << " m " << m << " at " << at;
            ASSERT_NEAR(found, reference[static_cast<size_t>(at)], size * 2e-5)
                << cpu_isa_name(isa) << " n " << n << " k " << k << " m " << m << " at " << at;
          }
        }
      }
    }
  }
}

TEST_P(QuantizedMatmul, RowsDoNotDependOnTheBatchNorOnTheThreads) {
  const int64_t k = 192;
  const int64_t n = 133;
  const int64_t m = 211;
  const Weights weights = make_weights(GetParam(), n, k, 5);
  const auto x = random_floats(m * k, 6);
  const int threads = num_threads();
  for (const CpuIsa isa : runnable_isas()) {
    const ScopedIsa scoped(isa);
    std::vector<float> together(static_cast<size_t>(m * n));
    set_num_threads(3);
    matmul(*weights.packed, x.data(), m, k, together.data(), n);
    set_num_threads(1);
    for (const int64_t count : {1, 2, 3, 7}) {
      std::vector<float> few(static_cast<size_t>(count * n));
      for (int64_t r = 0; r + count <= m; r += 29) {
        matmul(*weights.packed, x.data() + r * k, count, k, few.data(), n);
        ASSERT_EQ(std::memcmp(few.data(), together.data() + r * n, few.size() * sizeof(float)), 0)
            << cpu_isa_name(isa) << " row " << r << " count " << count;
      }
    }
  }
  set_num_threads(threads);
}

TEST_P(QuantizedMatmul, OutputErrorAgainstTheDecodedWeightsIsSmall) {
  const int64_t k = 576;
  const int64_t n = 256;
  const int64_t m = 8;
  const Weights weights = make_weights(GetParam(), n, k, 8);
  const auto x = random_floats(m * k, 9);
  std::vector<float> y(static_cast<size_t>(m * n));
  matmul(*weights.packed, x.data(), m, k, y.data(), n);
  double error = 0.0;
  double size = 0.0;
  for (int64_t at = 0; at < m * n; ++at) {
    double expected = 0.0;
    for (int64_t j = 0; j < k; ++j) {
      expected += double{x[static_cast<size_t>(at / n * k + j)]} *
                  weights.decoded[static_cast<size_t>(at % n * k + j)];
    }
    const double difference = y[static_cast<size_t>(at)] - expected;
    error += difference * difference;
    size += expected * expected;
  }
  const double relative = std::sqrt(error / size);
  RecordProperty("relative_error", std::to_string(relative));
  EXPECT_LT(relative, GetParam().precision == Precision::kExact   ? 1e-6
                      : GetParam().precision == Precision::kFast8 ? 1e-2
                                                                  : 4e-4);
}

TEST_P(QuantizedMatmul, DecodeRowGivesTheDecodedValues) {
  for (const int64_t k : {45, 96, 128}) {
    const int64_t n = 21;
    const Weights weights = make_weights(GetParam(), n, k, 12);
    std::vector<float> row(static_cast<size_t>(k));
    for (int64_t i = 0; i < n; ++i) {
      decode_row(*weights.packed, i, row.data());
      for (int64_t j = 0; j < k; ++j) {
        const float wanted = weights.decoded[static_cast<size_t>(i * k + j)];
        const double bound = GetParam().precision == Precision::kExact ? 0.0 : tolerance(k) * 0.2;
        ASSERT_NEAR(row[static_cast<size_t>(j)], wanted, bound) << "row " << i << " column " << j;
      }
    }
  }
}

TEST_P(QuantizedMatmul, TheTransposedProductMatchesDouble) {
  const int64_t m = 5;
  // A byte of a codebook is off by up to half of 1/112 (NF4) or 1/120 (FP4).
  const double of_weight = GetParam().precision == Precision::kFast8 ? 0.4 : 0.002;
  for (const CpuIsa isa : runnable_isas()) {
    const ScopedIsa scoped(isa);
    for (const int64_t n : {1, 16, 67}) {
      for (const int64_t k : {45, 96, 128}) {
        const Weights weights = make_weights(GetParam(), n, k, 21);
        const auto y = random_floats(m * n, 22);
        std::vector<float> x(static_cast<size_t>(m * k), 7.0f);
        matmul_transposed(*weights.packed, y.data(), m, n, x.data(), k);
        for (int64_t at = 0; at < m * k; ++at) {
          double sum = 0.0;
          double size = 1e-9;
          for (int64_t i = 0; i < n; ++i) {
            const double term = double{y[static_cast<size_t>(at / k * n + i)]} *
                                weights.decoded[static_cast<size_t>(i * k + at % k)];
            sum += term;
            size += std::fabs(term) + of_weight * std::fabs(y[static_cast<size_t>(at / k * n + i)]);
          }
          const double bound = GetParam().precision == Precision::kExact ? 1e-6 : 0.01;
          ASSERT_NEAR(x[static_cast<size_t>(at)], sum, bound * size)
              << cpu_isa_name(isa) << " n " << n << " k " << k << " at " << at;
        }
      }
    }
  }
}

TEST(QuantizedMatmulGroup, EqualsSingleCallsBitForBit) {
  const int64_t k = 128;
  for (const CpuIsa isa : runnable_isas()) {
    const ScopedIsa scoped(isa);
    for (const int64_t m : {1, 8}) {
      std::vector<Weights> weights;
      for (const WeightType type : {WeightType::kNF4, WeightType::kFP4, WeightType::kInt8Rows}) {
        weights.push_back(make_weights({type, 64, Precision::kFast}, 33, k, 3));
      }
      const auto x = random_floats(m * k, 4);
      std::vector<std::vector<float>> together(3, std::vector<float>(static_cast<size_t>(m * 33)));
      std::vector<MatmulTarget> targets;
      for (size_t i = 0; i < 3; ++i) {
        targets.push_back({weights[i].packed.get(), together[i].data(), 33});
      }
      matmul_group(targets, x.data(), m, k);
      for (size_t i = 0; i < 3; ++i) {
        std::vector<float> single(together[i].size());
        matmul(*weights[i].packed, x.data(), m, k, single.data(), 33);
        EXPECT_EQ(single, together[i]) << cpu_isa_name(isa) << " member " << i;
      }
    }
  }
}

TEST(PackQuantized, FourBitCodesTakeFourAndAQuarterBits) {
  const int64_t n = 64;
  const int64_t k = 1024;
  const Weights weights = make_weights({WeightType::kNF4, 64, Precision::kFast}, n, k, 2);
  EXPECT_EQ(weights.packed->bytes(), n * k * 17 / 32 + n * 4);
}

TEST(PackQuantized, BlocksOfZerosAndStatesThatDoNotFit) {
  const std::vector<float> zeros(64 * 17, 0.0f);
  FourBitOptions options;
  options.double_quant = false;
  FourBitCodes coded = quantize_four_bit(zeros.data(), 64 * 17, options);
  const auto packed =
      pack_quantized(WeightType::kNF4, coded.state, coded.codes.data(), 17, 64, Precision::kFast);
  const auto x = random_floats(64, 1);
  std::vector<float> y(17, 1.0f);
  matmul(*packed, x.data(), 1, 64, y.data(), 17);
  EXPECT_THAT(y, testing::Each(0.0f));
  coded.state.absmax.pop_back();
  EXPECT_THAT(
      [&] {
        pack_quantized(WeightType::kNF4, coded.state, coded.codes.data(), 17, 64, Precision::kFast);
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("wants 17 absmax, got 16")));
  EXPECT_THAT(
      [&] {
        pack_quantized(WeightType::kF32, coded.state, coded.codes.data(), 17, 64, Precision::kFast);
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("type F32 has no state")));
}

}  // namespace
}  // namespace quarry::kernels
