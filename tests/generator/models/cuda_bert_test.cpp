// Encoders on a GPU against the CPU. Built twice, as kernels_cuda_test.cpp is.
#include "generator/models/cuda_bert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "data/core/error.h"
#include "generator/kernels/device_buffer.h"
#include "generator/models/device.h"
#include "generator/models/text_encoder.h"
#include "generator/nn/lora.h"
#include "tests/generator/models/model_test_util.h"
#include "tests/support/expect_error.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using testing_util::golden;

double cosine(const float* a, const float* b, int64_t dim) {
  double dot = 0.0, aa = 0.0, bb = 0.0;
  for (int64_t i = 0; i < dim; ++i) {
    dot += double{a[i]} * b[i];
    aa += double{a[i]} * a[i];
    bb += double{b[i]} * b[i];
  }
  return dot / std::sqrt(aa * bb);
}

// Pairs of rank 2 for every Linear.
LoraAdapter random_adapter(const TextEncoder& model) {
  std::map<std::string, LoraWeights> weights;
  for (const CausalLm::LinearSlot& slot : model.linear_slots()) {
    LoraWeights pair;
    pair.rank = 2;
    for (int64_t i = 0; i < 2 * slot.in_features; ++i) {
      pair.a.push_back(0.8f * std::sin(1.7f * static_cast<float>(i)));
    }
    for (int64_t i = 0; i < 2 * slot.out_features; ++i) {
      pair.b.push_back(0.8f * std::cos(0.9f * static_cast<float>(i)));
    }
    pair.pack();
    weights[slot.path] = std::move(pair);
  }
  return LoraAdapter(std::move(weights));
}

class CudaBert : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kernels::cuda::device_count() == 0) GTEST_SKIP() << "no CUDA device on this machine";
  }
  const std::vector<std::string> texts_ = {
      "a",  "the quick brown fox jumps over the lazy dog and then once more over it",
      "",   "hello world",
      "to", "one two three four five six"};
};

TEST_F(CudaBert, VectorsAreTheCpus) {
  for (const char* name : {"bert", "../encoders/roberta"}) {
    SCOPED_TRACE(name);
    const LoadedEncoder host = load_text_encoder(golden(name), kernels::Precision::kFast);
    const LoadedEncoder device =
        load_text_encoder(golden(name), kernels::Precision::kFast, Device::kCuda);
    EXPECT_EQ(device.device, Device::kCuda);
    const int64_t dim = host.model->dim();
    const LoraAdapter adapter = random_adapter(*host.model);
    const std::vector<float> plain = host.model->encode(texts_);
    const std::vector<float> tuned = host.model->encode_with(adapter, texts_);
    const std::vector<float> device_plain = device.model->encode(texts_);
    // Adapters belong to one model.
    const LoraAdapter device_adapter = random_adapter(*device.model);
    const std::vector<float> device_tuned = device.model->encode_with(device_adapter, texts_);
    ASSERT_EQ(device_plain.size(), plain.size());
    ASSERT_EQ(device_tuned.size(), tuned.size());
    for (size_t i = 0; i < texts_.size(); ++i) {
      const size_t at = i * static_cast<size_t>(dim);
      EXPECT_GT(cosine(&device_plain[at], &plain[at], dim), 0.999) << i;
      EXPECT_GT(cosine(&device_tuned[at], &tuned[at], dim), 0.998) << i;
      EXPECT_LT(cosine(&plain[at], &tuned[at], dim), 0.99) << i;
    }
  }
}

// An adapter that learns is seen as it is.
TEST_F(CudaBert, WeightsThatChangeAreCopiedAgain) {
  const LoadedEncoder device =
      load_text_encoder(golden("bert"), kernels::Precision::kFast, Device::kCuda);
  LoraAdapter adapter = random_adapter(*device.model);
  const std::vector<float> before = device.model->encode_with(adapter, texts_);
  for (auto& [path, pair] : adapter.mutable_weights()) {
    std::fill(pair.b.begin(), pair.b.end(), 0.0f);
    pair.pack();
  }
  const std::vector<float> after = device.model->encode_with(adapter, texts_);
  EXPECT_NE(before, after);
  EXPECT_EQ(after, device.model->encode(texts_));
}

TEST_F(CudaBert, ExactProductsAreRefused) {
  test::expect_error(
      [] { load_text_encoder(golden("bert"), kernels::Precision::kExact, Device::kCuda); },
      ErrorCode::kInvalidArgument, "exact products are not made on a GPU");
  const LoadedEncoder loaded =
      load_text_encoder(golden("bert"), kernels::Precision::kExact, Device::kAuto);
  EXPECT_EQ(loaded.device, Device::kCpu);
  EXPECT_THAT(loaded.why_cpu, HasSubstr("exact products"));
  EXPECT_EQ(loaded.model->encode({"a"}).size(), static_cast<size_t>(loaded.model->dim()));
}

}  // namespace
}  // namespace quarry
