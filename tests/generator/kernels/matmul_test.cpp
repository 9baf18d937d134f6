#include "generator/kernels/matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/quant/half.h"
#include "tests/generator/kernels/kernel_test_util.h"
#include "tests/support/temporary_folder.h"

namespace quarry::kernels {
namespace {

const WeightType kAllTypes[] = {WeightType::kF32,  WeightType::kF16,  WeightType::kBF16,
                                WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ5_0,
                                WeightType::kQ5_1, WeightType::kQ8_0, WeightType::kQ4_K,
                                WeightType::kQ5_K, WeightType::kQ6_K};

bool is_dense(WeightType type) { return weight_type_traits(type).block_size == 1; }

// Byte offsets of the fp16 fields of a block.
std::vector<int64_t> half_fields(WeightType type) {
  switch (type) {
    case WeightType::kQ4_0:
    case WeightType::kQ5_0:
    case WeightType::kQ8_0:
      return {0};
    case WeightType::kQ6_K:
      return {208};
    default:
      return {0, 2};
  }
}

// Random bytes of [n, k] weights whose scales are of a size that models have.
std::vector<uint8_t> random_weights(WeightType type, int64_t n, int64_t k, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, 0.05f);
  const int64_t count = n * k;
  std::vector<uint8_t> bytes(static_cast<size_t>(weight_bytes(type, count)));
  if (is_dense(type)) {
    for (int64_t i = 0; i < count; ++i) {
      const float value = normal(generator);
      const uint16_t half =
          type == WeightType::kF16 ? quant::float_to_half(value) : quant::float_to_bfloat16(value);
      if (type == WeightType::kF32) {
        std::memcpy(bytes.data() + 4 * i, &value, 4);
      } else {
        std::memcpy(bytes.data() + 2 * i, &half, 2);
      }
    }
    return bytes;
  }
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(generator());
  const WeightTypeTraits& traits = weight_type_traits(type);
  for (int64_t b = 0; b < count / traits.block_size; ++b) {
    for (const int64_t field : half_fields(type)) {
      const uint16_t half = quant::float_to_half(0.1f * normal(generator));
      std::memcpy(bytes.data() + b * traits.bytes_per_block + field, &half, 2);
    }
  }
  return bytes;
}

// What the kernels approximate, and the size of the terms that were added up.
struct Expected {
  std::vector<double> values;
  std::vector<double> magnitudes;
};

Expected multiply_in_double(WeightType type, const std::vector<uint8_t>& bytes, int64_t n,
                            int64_t k, const std::vector<float>& x, int64_t m) {
  std::vector<float> w(static_cast<size_t>(n * k));
  dequantize(type, bytes.data(), w.data(), n * k);
  Expected expected;
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < n; ++i) {
      double total = 0.0;
      double magnitude = 0.0;
      for (int64_t j = 0; j < k; ++j) {
        const double product = static_cast<double>(w[i * k + j]) * x[r * k + j];
        total += product;
        magnitude += std::fabs(product);
      }
      expected.values.push_back(total);
      expected.magnitudes.push_back(magnitude);
    }
  }
  return expected;
}

double relative_tolerance(WeightType type, Precision precision) {
  if (precision == Precision::kExact) return 2e-6;
  if (precision == Precision::kFast8) return 2e-2;  // activations off by up to 0.4 % of the largest
  if (is_dense(type)) return 8e-3;                  // both factors rounded to bfloat16
  // Scales of the K formats are products that pack_matrix rounds to fp16.
  const bool rounded_scales =
      type == WeightType::kQ4_K || type == WeightType::kQ5_K || type == WeightType::kQ6_K;
  return rounded_scales ? 1e-3 : 2e-4;
}

// One that is odd, but where dense weights are to become bytes.
int64_t dense_depth(Precision precision) { return precision == Precision::kFast8 ? 128 : 67; }

struct Case {
  WeightType type;
  Precision precision;
};

std::string case_name(const testing::TestParamInfo<Case>& info) {
  return std::string(weight_type_traits(info.param.type).name) +
         (info.param.precision == Precision::kExact   ? "_exact"
          : info.param.precision == Precision::kFast8 ? "_fast8"
                                                      : "_fast");
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const WeightType type : kAllTypes) {
    cases.push_back({type, Precision::kExact});
    cases.push_back({type, Precision::kFast});
    cases.push_back({type, Precision::kFast8});
  }
  return cases;
}

class MatmulParity : public testing::TestWithParam<Case> {
 protected:
  // k values that the type allows.
  std::vector<int64_t> depths() const {
    const bool to_bytes = GetParam().precision == Precision::kFast8;
    if (is_dense(GetParam().type) && to_bytes) return {64, 67, 192};
    if (is_dense(GetParam().type)) return {1, 2, 15, 17, 67};
    const int64_t block = weight_type_traits(GetParam().type).block_size;
    return {block, 3 * block};
  }
};

TEST_P(MatmulParity, EveryIsaMatchesDoubleAndReferenceAtOddSizes) {
  const auto [type, precision] = GetParam();
  for (const int64_t k : depths()) {
    for (const int64_t n : {1, 15, 16, 17, 31, 67}) {
      const auto bytes = random_weights(type, n, k, static_cast<uint32_t>(n + k));
      const auto weight = pack_matrix(type, bytes.data(), n, k, precision);
      EXPECT_EQ(packed_bytes(type, n, k, precision), weight->bytes());
      for (const int64_t m : {1, 2, 5, 13}) {
        const auto x = random_floats(m * k, static_cast<uint32_t>(m));
        const Expected expected = multiply_in_double(type, bytes, n, k, x, m);
        std::vector<float> reference(static_cast<size_t>(m * n));
        matmul_reference(*weight, x.data(), m, k, reference.data(), n);
        for (const CpuIsa isa : runnable_isas()) {
          const ScopedIsa scoped(isa);
          std::vector<float> y(static_cast<size_t>(m * n), -77.0f);
          matmul(*weight, x.data(), m, k, y.data(), n);
          for (size_t i = 0; i < y.size(); ++i) {
            const double size = expected.magnitudes[i] + 1e-7;
            ASSERT_NEAR(y[i], expected.values[i], size * relative_tolerance(type, precision))
                << cpu_isa_name(isa) << " n " << n << " k " << k << " m " << m << " i " << i;
            ASSERT_NEAR(y[i], reference[i], size * 2e-5)
                << cpu_isa_name(isa) << " n " << n << " k " << k << " m " << m << " i " << i;
          }
        }
      }
    }
  }
}

TEST_P(MatmulParity, EightBitActivationsMatchDoubleAndReference) {
  const auto [type, precision] = GetParam();
  const int64_t k =
      is_dense(type) ? dense_depth(precision) : 3 * weight_type_traits(type).block_size;
  const int64_t n = 37;
  const auto bytes = random_weights(type, n, k, 41);
  const auto weight = pack_matrix(type, bytes.data(), n, k, precision);
  for (const int64_t m : {1, 8}) {
    const auto x = random_floats(m * k, 42);
    const Expected expected = multiply_in_double(type, bytes, n, k, x, m);
    for (const CpuIsa isa : runnable_isas()) {
      const ScopedIsa scoped(isa);
      std::vector<float> reference(static_cast<size_t>(m * n));
      matmul_reference(*weight, x.data(), m, k, reference.data(), n, ActivationBits::k8);
      std::vector<float> y(static_cast<size_t>(m * n), -77.0f);
      matmul(*weight, x.data(), m, k, y.data(), n, ActivationBits::k8);
      for (size_t i = 0; i < y.size(); ++i) {
        const double size = expected.magnitudes[i] + 1e-7;
        ASSERT_NEAR(y[i], expected.values[i], size * 2e-2) << cpu_isa_name(isa) << " i " << i;
        ASSERT_NEAR(y[i], reference[i], size * 2e-5) << cpu_isa_name(isa) << " i " << i;
      }
    }
  }
}

TEST_P(MatmulParity, WeightsMovedToAFileMultiplyTheSame) {
  const auto [type, precision] = GetParam();
  const int64_t k =
      is_dense(type) ? dense_depth(precision) : 2 * weight_type_traits(type).block_size;
  const int64_t n = 133;
  const int64_t m = 9;
  const auto bytes = random_weights(type, n, k, 8);
  const auto weight = pack_matrix(type, bytes.data(), n, k, precision);
  const auto x = random_floats(m * k, 9);
  std::vector<float> wanted(static_cast<size_t>(m * n));
  matmul(*weight, x.data(), m, k, wanted.data(), n);
  const test::TemporaryFolder folder;
  {
    SpillFile file(folder.path() / "made");
    weight->move_to(file);
    weight->move_to(file);  // of no effect
    EXPECT_GE(file.bytes(), weight->bytes());
    EXPECT_LT(file.bytes(), weight->bytes() + 4 * 65536);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path() / "made"));
  weight->will_need();
  std::vector<float> y(wanted.size());
  matmul(*weight, x.data(), m, k, y.data(), n);
  EXPECT_EQ(y, wanted);
}

TEST_P(MatmulParity, RowsDoNotDependOnTheBatchNorOnTheThreads) {
  const auto [type, precision] = GetParam();
  const int64_t k =
      is_dense(type) ? dense_depth(precision) : 2 * weight_type_traits(type).block_size;
  const int64_t n = 133;
  const int64_t m = 211;  // more than one row tile
  const auto bytes = random_weights(type, n, k, 5);
  const auto weight = pack_matrix(type, bytes.data(), n, k, precision);
  const auto x = random_floats(m * k, 6);
  const int threads = num_threads();
  for (const CpuIsa isa : runnable_isas()) {
    const ScopedIsa scoped(isa);
    for (const ActivationBits bits : {ActivationBits::k16, ActivationBits::k8}) {
      std::vector<float> together(static_cast<size_t>(m * n));
      set_num_threads(3);
      matmul(*weight, x.data(), m, k, together.data(), n, bits);
      set_num_threads(1);
      for (const int64_t count : {1, 2, 3, 7}) {
        std::vector<float> few(static_cast<size_t>(count * n));
        for (int64_t r = 0; r + count <= m; r += 29) {
          matmul(*weight, x.data() + r * k, count, k, few.data(), n, bits);
          ASSERT_EQ(std::memcmp(few.data(), together.data() + r * n, few.size() * sizeof(float)), 0)
              << cpu_isa_name(isa) << " row " << r << " count " << count;
        }
      }
    }
  }
  set_num_threads(threads);
}

TEST(MatmulBytes, MatchesItsPlainTwinPastOnePanel) {
  const int64_t n = 35;
  const int64_t k = 4096 + 96;  // deeper than a panel, and not of whole blocks of 64
  const int64_t m = 14;
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ8_0}) {
    const auto bytes = random_weights(type, n, k, 51);
    const auto weight = pack_matrix(type, bytes.data(), n, k, Precision::kFast);
    const auto x = random_floats(m * k, 52);
    for (const CpuIsa isa : runnable_isas()) {
      const ScopedIsa scoped(isa);
      std::vector<float> y(static_cast<size_t>(m * n));
      std::vector<float> plain(y.size());
      matmul(*weight, x.data(), m, k, y.data(), n, ActivationBits::k8);
      matmul_reference(*weight, x.data(), m, k, plain.data(), n, ActivationBits::k8);
      const Expected expected = multiply_in_double(type, bytes, n, k, x, m);
      for (size_t i = 0; i < y.size(); ++i) {
        ASSERT_NEAR(y[i], plain[i], expected.magnitudes[i] * 2e-5) << cpu_isa_name(isa);
        ASSERT_NEAR(y[i], expected.values[i], expected.magnitudes[i] * 5e-3) << cpu_isa_name(isa);
      }
    }
  }
}

// Weights of three layouts over one x, which is left rounded on the way, forward and backward.
TEST(MatmulBytes, AGroupIsItsProductsAndLeavesTheRoundedCopy) {
  const int64_t k = 288;
  const int64_t m = 9;
  const int64_t stride = k + 6;
  const auto x = random_floats(m * k, 61);
  std::vector<std::unique_ptr<PackedMatrix>> weights;
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ8_0, WeightType::kF32}) {
    const auto bytes = random_weights(type, 21, k, 62);
    weights.push_back(pack_matrix(type, bytes.data(), 21, k, Precision::kFast));
  }
  const auto expect_rounded = [&](const std::vector<uint16_t>& copy, const char* what) {
    for (int64_t i = 0; i < m * stride; ++i) {
      const uint16_t wanted =
          i % stride < k
              ? quant::float_to_bfloat16(x[static_cast<size_t>(i / stride * k + i % stride)])
              : uint16_t{7};
      ASSERT_EQ(copy[static_cast<size_t>(i)], wanted) << what << " " << i;
    }
  };
  for (const CpuIsa isa : runnable_isas()) {
    const ScopedIsa scoped(isa);
    for (size_t first = 0; first < weights.size(); ++first) {
      std::vector<float> y(static_cast<size_t>(m * 63));
      std::vector<MatmulTarget> targets;
      for (size_t i = 0; i < weights.size(); ++i) {
        targets.push_back(
            {weights[(first + i) % weights.size()].get(), y.data() + 21 * i, 63, nullptr});
      }
      std::vector<uint16_t> copy(static_cast<size_t>(m * stride), 7);
      matmul_group(targets, x.data(), m, k, ActivationBits::k8, {copy.data(), stride});
      expect_rounded(copy, cpu_isa_name(isa));
      for (const MatmulTarget& target : targets) {
        std::vector<float> alone(static_cast<size_t>(m * 21));
        matmul(*target.weight, x.data(), m, k, alone.data(), 21, ActivationBits::k8);
        for (int64_t i = 0; i < m * 21; ++i) {
          ASSERT_EQ(target.y[i / 21 * 63 + i % 21], alone[static_cast<size_t>(i)]);
        }
      }
    }
    const auto bytes = random_weights(WeightType::kQ4_1, k, 64, 63);
    const auto weight = pack_matrix(WeightType::kQ4_1, bytes.data(), k, 64, Precision::kFast);
    std::vector<float> gradient(static_cast<size_t>(m * 64));
    std::vector<uint16_t> copy(static_cast<size_t>(m * stride), 7);
    matmul_transposed(*weight, x.data(), m, k, gradient.data(), 64, ActivationBits::k8,
                      {copy.data(), stride});
    expect_rounded(copy, "transposed");
  }
}

TEST_P(MatmulParity, StridesAreKeptAndNothingElseIsWritten) {
  const auto [type, precision] = GetParam();
  const int64_t k = is_dense(type) ? 31 : weight_type_traits(type).block_size;
  const int64_t n = 19;
  const int64_t m = 9;
  const int64_t ldx = k + 5;
  const int64_t ldy = n + 3;
  const auto bytes = random_weights(type, n, k, 9);
  const auto weight = pack_matrix(type, bytes.data(), n, k, precision);
  const auto x = random_floats(m * ldx, 10);
  std::vector<float> packed_x;
  for (int64_t r = 0; r < m; ++r) {
    packed_x.insert(packed_x.end(), x.begin() + r * ldx, x.begin() + r * ldx + k);
  }
  for (const CpuIsa isa : runnable_isas()) {
    const ScopedIsa scoped(isa);
    std::vector<float> packed_y(static_cast<size_t>(m * n));
    matmul(*weight, packed_x.data(), m, k, packed_y.data(), n);
    std::vector<float> y(static_cast<size_t>(m * ldy), -77.0f);
    matmul(*weight, x.data(), m, ldx, y.data(), ldy);
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t i = 0; i < ldy; ++i) {
        const float wanted = i < n ? packed_y[r * n + i] : -77.0f;
        ASSERT_EQ(y[r * ldy + i], wanted) << cpu_isa_name(isa) << " row " << r << " column " << i;
      }
    }
  }
}

float largest_of_block(const std::vector<float>& values, int64_t begin) {
  float largest = 0.0f;
  for (int64_t i = begin; i < begin + 64; ++i) {
    largest = std::max(largest, std::fabs(values[static_cast<size_t>(i)]));
  }
  return largest;
}

TEST_P(MatmulParity, DecodeRowGivesTheFormatsValues) {
  const auto [type, precision] = GetParam();
  const int64_t k =
      is_dense(type) ? dense_depth(precision) : 2 * weight_type_traits(type).block_size;
  const int64_t n = 21;
  const auto bytes = random_weights(type, n, k, 12);
  std::vector<float> expected(static_cast<size_t>(n * k));
  dequantize(type, bytes.data(), expected.data(), n * k);
  const auto weight = pack_matrix(type, bytes.data(), n, k, precision);
  std::vector<float> row(static_cast<size_t>(k));
  for (int64_t i = 0; i < n; ++i) {
    decode_row(*weight, i, row.data());
    for (int64_t j = 0; j < k; ++j) {
      const float wanted = expected[i * k + j];
      // fp16 rounding of the K formats' scale and offset, bfloat16 of dense weights, or half a step
      // between bytes of which 127 reach a block's largest weight.
      const bool is_byte = is_dense(type) && precision == Precision::kFast8;
      const float largest = is_byte ? largest_of_block(expected, i * k + j / 64 * 64) : 0.0f;
      const float tolerance = precision == Precision::kExact ? 0.0f
                              : is_byte                      ? largest * 0.502f / 127.0f
                                                             : 4e-3f * std::fabs(wanted) + 4e-4f;
      ASSERT_NEAR(row[j], wanted, tolerance) << "row " << i << " column " << j;
    }
  }
  EXPECT_GT(weight->bytes(), 0);
  EXPECT_EQ(weight->n(), n);
  EXPECT_EQ(weight->k(), k);
}

INSTANTIATE_TEST_SUITE_P(AllTypes, MatmulParity, testing::ValuesIn(all_cases()), case_name);

TEST(Matmul, Q8RowsOfOneValueAreExact) {
  // x = 127 * 256 quantizes without rounding, so integers come out exactly.
  const int64_t k = 64;
  std::vector<uint8_t> bytes(static_cast<size_t>(weight_bytes(WeightType::kQ8_0, k)));
  int64_t total = 0;
  for (int64_t b = 0; b < 2; ++b) {
    const uint16_t one = quant::float_to_half(1.0f);
    std::memcpy(bytes.data() + 34 * b, &one, 2);
    for (int64_t i = 0; i < 32; ++i) {
      bytes[34 * b + 2 + i] = static_cast<uint8_t>(static_cast<int8_t>(i * 4 - 128 + b));
      total += i * 4 - 128 + b;
    }
  }
  const auto weight = pack_matrix(WeightType::kQ8_0, bytes.data(), 1, k, Precision::kFast);
  const std::vector<float> x(static_cast<size_t>(k), 127.0f * 256.0f);
  for (const CpuIsa isa : runnable_isas()) {
    const ScopedIsa scoped(isa);
    float y = 0.0f;
    matmul(*weight, x.data(), 1, k, &y, 1);
    EXPECT_EQ(y, static_cast<float>(total) * 127.0f * 256.0f) << cpu_isa_name(isa);
  }
}

TEST(Matmul, ZeroTinyAndNonFiniteRows) {
  const int64_t k = 64;
  const int64_t n = 17;
  for (const WeightType type : {WeightType::kQ4_1, WeightType::kQ8_0, WeightType::kF32}) {
    const auto bytes = random_weights(type, n, k, 3);
    const auto weight = pack_matrix(type, bytes.data(), n, k, Precision::kFast);
    for (const CpuIsa isa : runnable_isas()) {
      const ScopedIsa scoped(isa);
      std::vector<float> x(static_cast<size_t>(3 * k), 0.0f);
      for (int64_t j = 0; j < k; ++j) x[k + j] = 1e-42f;  // 127 / amax would be infinite
      x[2 * k + 5] = std::numeric_limits<float>::quiet_NaN();
      std::vector<float> y(static_cast<size_t>(3 * n), -77.0f);
      matmul(*weight, x.data(), 3, k, y.data(), n);
      for (int64_t i = 0; i < n; ++i) {
        EXPECT_EQ(y[i], 0.0f) << cpu_isa_name(isa);
        EXPECT_NEAR(y[n + i], 0.0f, 1e-38f) << cpu_isa_name(isa);
        EXPECT_TRUE(std::isnan(y[2 * n + i])) << cpu_isa_name(isa);
      }
    }
  }
}

TEST(Matmul, NoRowsIsNothing) {
  const auto bytes = random_weights(WeightType::kQ4_0, 16, 32, 3);
  const auto weight = pack_matrix(WeightType::kQ4_0, bytes.data(), 16, 32, Precision::kFast);
  float y = -77.0f;
  matmul(*weight, nullptr, 0, 32, &y, 16);
  EXPECT_EQ(y, -77.0f);
}

TEST(MatmulGroup, EqualsSingleCallsBitForBit) {
  const int64_t k = 256;
  struct Member {
    WeightType type;
    int64_t n;
  };
  // A run of shared activations, another block size, dense ones in between.
  const std::vector<Member> members = {{WeightType::kQ4_1, 67}, {WeightType::kQ8_0, 16},
                                       {WeightType::kQ4_K, 33}, {WeightType::kQ6_K, 48},
                                       {WeightType::kF32, 20},  {WeightType::kQ4_0, 1}};
  for (const CpuIsa isa : runnable_isas()) {
    const ScopedIsa scoped(isa);
    for (const int64_t m : {1, 8}) {
      const auto x = random_floats(m * k, 4);
      std::vector<std::unique_ptr<PackedMatrix>> weights;
      std::vector<std::vector<float>> results(members.size());
      std::vector<MatmulTarget> targets;
      for (size_t i = 0; i < members.size(); ++i) {
        const auto bytes = random_weights(members[i].type, members[i].n, k, 20);
        weights.push_back(
            pack_matrix(members[i].type, bytes.data(), members[i].n, k, Precision::kFast));
        results[i].resize(static_cast<size_t>(m * members[i].n));
        targets.push_back({weights[i].get(), results[i].data(), members[i].n});
      }
      matmul_group(targets, x.data(), m, k);
      for (size_t i = 0; i < members.size(); ++i) {
        std::vector<float> single(results[i].size());
        matmul(*weights[i], x.data(), m, k, single.data(), members[i].n);
        EXPECT_EQ(single, results[i]) << cpu_isa_name(isa) << " member " << i << " m " << m;
      }
    }
  }
}

TEST_P(MatmulParity, ABiasIsAddedToTheProduct) {
  const auto [type, precision] = GetParam();
  const int64_t k = is_dense(type) ? dense_depth(precision) : weight_type_traits(type).block_size;
  const int64_t n = 85;
  const auto bytes = random_weights(type, n, k, 71);
  const auto weight = pack_matrix(type, bytes.data(), n, k, precision);
  const auto bias = random_floats(n, 72);
  for (const CpuIsa isa : runnable_isas()) {
    const ScopedIsa scoped(isa);
    for (const ActivationBits bits : {ActivationBits::k16, ActivationBits::k8}) {
      for (const int64_t m : {1, 5, 200}) {
        const auto x = random_floats(m * k, 73);
        std::vector<float> wanted(static_cast<size_t>(m * n));
        matmul(*weight, x.data(), m, k, wanted.data(), n, bits);
        for (int64_t i = 0; i < m * n; ++i) {
          wanted[static_cast<size_t>(i)] += bias[static_cast<size_t>(i % n)];
        }
        std::vector<float> y(wanted.size());
        matmul_group({{weight.get(), y.data(), n, bias.data()}}, x.data(), m, k, bits);
        ASSERT_EQ(y, wanted) << cpu_isa_name(isa) << " m " << m;
      }
    }
  }
}

TEST(MatmulGroup, DifferentDepthsThrow) {
  const auto bytes = random_weights(WeightType::kQ4_0, 1, 64, 3);
  const auto a = pack_matrix(WeightType::kQ4_0, bytes.data(), 1, 64, Precision::kFast);
  const auto b = pack_matrix(WeightType::kQ4_0, bytes.data(), 1, 32, Precision::kFast);
  float y[2];
  const std::vector<MatmulTarget> targets = {{a.get(), y, 1}, {b.get(), y + 1, 1}};
  const std::vector<float> x(64, 1.0f);
  EXPECT_THAT(
      [&] { matmul_group(targets, x.data(), 1, 64); },
      testing::ThrowsMessage<Error>(testing::HasSubstr("with 32 and 64 in_features cannot share")));
}

TEST(PackMatrix, DepthThatIsNoMultipleOfTheBlockThrows) {
  const std::vector<uint8_t> bytes(1024);
  EXPECT_THAT([&] { pack_matrix(WeightType::kQ4_K, bytes.data(), 2, 128, Precision::kFast); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("shape [2, 128] of type Q4_K")));
  EXPECT_THAT([&] { pack_matrix(WeightType::kF32, bytes.data(), 0, 4, Precision::kFast); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("want n >= 1")));
}

TEST(DecodeRow, RowOutOfRangeThrows) {
  const auto bytes = random_weights(WeightType::kF32, 2, 4, 3);
  const auto weight = pack_matrix(WeightType::kF32, bytes.data(), 2, 4, Precision::kFast);
  float row[4];
  EXPECT_THAT([&] { decode_row(*weight, 2, row); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("row 2 of a matrix with 2 rows")));
}

const std::pair<Precision, ActivationBits> kWays[] = {{Precision::kExact, ActivationBits::k16},
                                                      {Precision::kFast, ActivationBits::k16},
                                                      {Precision::kFast, ActivationBits::k8}};

struct Magnitudes {
  double total = 0.0;
  double largest = 0.0;
  void add(double value) {
    total += std::fabs(value);
    largest = std::max(largest, std::fabs(value));
  }
};

class MatmulTransposed : public testing::TestWithParam<CpuIsa> {
 protected:
  MatmulTransposed() : scoped_(GetParam()) {}

 private:
  ScopedIsa scoped_;
};

std::string transposed_isa_name(const testing::TestParamInfo<CpuIsa>& info) {
  return cpu_isa_name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Isa, MatmulTransposed, testing::ValuesIn(runnable_isas()),
                         transposed_isa_name);

TEST_P(MatmulTransposed, MatchesDoubleForEveryTypeAndPrecision) {
  for (const WeightType type : kAllTypes) {
    for (const auto& [precision, bits] : kWays) {
      for (const int64_t n : {int64_t{1}, int64_t{16}, int64_t{67}}) {
        const int64_t k = is_dense(type) ? 45 : 512;
        const int64_t m = 5;
        const auto bytes = random_weights(type, n, k, 21);
        const auto weight = pack_matrix(type, bytes.data(), n, k, precision);
        const auto y = random_floats(m * (n + 1), 22);
        std::vector<float> x(static_cast<size_t>(m * (k + 2)), 7.0f);
        matmul_transposed(*weight, y.data(), m, n + 1, x.data(), k + 2, bits);
        std::vector<float> rows(static_cast<size_t>(n * k));
        for (int64_t i = 0; i < n; ++i) decode_row(*weight, i, rows.data() + i * k);
        // bfloat16 rounds each factor by at most 2^-9, 8 bits by 1/254 of the largest.
        const double tolerance = precision == Precision::kExact ? 1e-6 : 0.008;
        const double step = bits == ActivationBits::k8 ? 1.05 / 254 : 0.0;
        for (int64_t r = 0; r < m; ++r) {
          for (int64_t j = 0; j < k + 2; ++j) {
            const float found = x[static_cast<size_t>(r * (k + 2) + j)];
            if (j >= k) {
              ASSERT_EQ(found, 7.0f);
              continue;
            }
            double sum = 0.0;
            double size = 0.0;
            Magnitudes of_y;
            Magnitudes of_w;
            for (int64_t i = 0; i < n; ++i) {
              const double value = y[static_cast<size_t>(r * (n + 1) + i)];
              const double weight_value = rows[static_cast<size_t>(i * k + j)];
              sum += value * weight_value;
              size += std::fabs(value * weight_value);
              of_y.add(value);
              of_w.add(weight_value);
            }
            const double rounding = of_y.largest * of_w.total + of_w.largest * of_y.total;
            ASSERT_NEAR(found, sum, tolerance * size + step * rounding + 1e-9)
                << weight_type_traits(type).name << " n " << n << " at " << r << ", " << j;
          }
        }
      }
    }
  }
}

TEST_P(MatmulTransposed, MatchesItsPlainTwinPastOnePanel) {
  const int64_t n = 4096 + 40;  // deeper than a panel
  const int64_t k = 96;
  const int64_t m = 14;
  const auto bytes = random_weights(WeightType::kQ8_0, n, k, 31);
  const auto y = random_floats(m * n, 32);
  for (const auto& [precision, bits] : kWays) {
    const auto weight = pack_matrix(WeightType::kQ8_0, bytes.data(), n, k, precision);
    std::vector<float> x(static_cast<size_t>(m * k));
    std::vector<float> plain(x.size());
    matmul_transposed(*weight, y.data(), m, n, x.data(), k, bits);
    matmul_transposed_reference(*weight, y.data(), m, n, plain.data(), k, bits);
    for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], plain[i], 2e-4);
    // A row does not depend on the others.
    std::vector<float> alone(static_cast<size_t>(k));
    matmul_transposed(*weight, y.data() + 3 * n, 1, n, alone.data(), k, bits);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), x.begin() + 3 * k));
  }
}

}  // namespace
}  // namespace quarry::kernels
