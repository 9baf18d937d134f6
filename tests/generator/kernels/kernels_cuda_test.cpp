#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "data/core/error.h"
#include "generator/kernels/cuda_twins.h"
#include "generator/kernels/elementwise.h"
#include "generator/quant/half.h"
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

// Floats on the device.
class DeviceFloats {
 public:
  explicit DeviceFloats(const std::vector<float>& values) : count_(values.size()) {
    EXPECT_EQ(cudaMalloc(&data_, count_ * sizeof(float)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(float), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  ~DeviceFloats() { cudaFree(data_); }
  DeviceFloats(const DeviceFloats&) = delete;
  DeviceFloats& operator=(const DeviceFloats&) = delete;
  float* data() const { return static_cast<float*>(data_); }
  std::vector<float> read() const {
    std::vector<float> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, count_ * sizeof(float), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  size_t count_;
  void* data_ = nullptr;
};

TEST_F(CudaKernels, RmsNormMatchesTheCpu) {
  const int64_t rows = 5;
  for (const int64_t width : {1, 31, 255, 256, 257, 576}) {
    const auto x = random_floats(rows * width, 1);
    const auto weight = random_floats(width, 2);
    std::vector<float> expected(x.size());
    rms_norm(x.data(), weight.data(), 1e-5f, rows, width, expected.data());
    const DeviceFloats device_x(x);
    const DeviceFloats device_weight(weight);
    cuda::rms_norm(device_x.data(), device_weight.data(), 1e-5f, rows, width, device_x.data(),
                   nullptr);
    const auto actual = device_x.read();
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(actual[i], expected[i], 1e-5 * (1.0 + std::fabs(expected[i]))) << width;
    }
  }
}

TEST_F(CudaKernels, GemvMatchesDoubleForEveryIntegerFormat) {
  const int64_t k = 512;
  for (const WeightType type : {WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ5_0,
                                WeightType::kQ8_0, WeightType::kQ4_K, WeightType::kQ6_K}) {
    for (const int64_t n : {1, 16, 67}) {
      const WeightTypeTraits& traits = weight_type_traits(type);
      std::vector<uint8_t> bytes(static_cast<size_t>(weight_bytes(type, n * k)));
      std::mt19937 generator(3);
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(generator());
      const uint16_t scale = quant::float_to_half(0.01f);
      for (size_t b = 0; b < bytes.size(); b += static_cast<size_t>(traits.bytes_per_block)) {
        uint8_t* field = bytes.data() + b + (type == WeightType::kQ6_K ? 208 : 0);
        std::memcpy(field, &scale, 2);
        if (type == WeightType::kQ4_1 || type == WeightType::kQ4_K) {
          std::memcpy(field + 2, &scale, 2);
        }
      }
      std::vector<float> w(static_cast<size_t>(n * k));
      dequantize(type, bytes.data(), w.data(), n * k);
      const auto x = random_floats(k, 4);
      const auto packed = pack_matrix(type, bytes.data(), n, k, Precision::kFast);
      const cuda::DeviceMatrix matrix(*packed);
      const DeviceFloats device_x(x);
      const DeviceFloats device_y(std::vector<float>(static_cast<size_t>(n)));
      cuda::gemv(matrix, device_x.data(), device_y.data(), nullptr);
      const auto actual = device_y.read();
      for (int64_t i = 0; i < n; ++i) {
        double total = 0.0;
        double magnitude = 0.0;
        for (int64_t j = 0; j < k; ++j) {
          total += double{w[i * k + j]} * x[j];
          magnitude += std::fabs(double{w[i * k + j]} * x[j]);
        }
        ASSERT_NEAR(actual[i], total, 1e-3 * magnitude) << traits.name << " row " << i;
      }
    }
  }
}

TEST(CudaDeviceMatrix, DenseMatrixThrows) {
  const std::vector<float> one = {1.0f};
  const auto packed = pack_matrix(WeightType::kF32, one.data(), 1, 1, Precision::kFast);
  EXPECT_THAT([&] { cuda::DeviceMatrix matrix(*packed); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("want 4- or 8-bit codes")));
}

}  // namespace
}  // namespace quarry::kernels
