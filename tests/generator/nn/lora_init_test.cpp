#include "generator/nn/lora_init.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "generator/nn/lora_training.h"
#include "generator/weights/safetensors_file.h"
#include "tests/generator/models/model_test_util.h"
#include "tests/generator/weights/expect_error.h"

namespace quarry {
namespace {

using test::expect_error;
using testing_util::all_logits;
using testing_util::golden;

const std::vector<int32_t> kTokens = {5, 17, 250, 3, 99, 42, 42, 180, 7};

class LoraInit : public ::testing::Test {
 protected:
  LoraInit() {
    settings_.r = 4;
    settings_.lora_alpha = 2;
    settings_.target_modules = {"q_proj", "down_proj"};
  }
  std::unique_ptr<LoraAdapter> create(const std::string& init) {
    settings_.init_lora_weights = options_.init_lora_weights = init;
    return create_adapter(LoraConfig::from_settings(settings_), *model(), options_);
  }
  const CausalLm* model() const { return loaded_.model.get(); }

  LoadedGenerator loaded_ = load_generator(golden("llama"), kernels::Precision::kExact);
  LoraSettings settings_;
  LoraInitOptions options_;
};

// scale * B A [out, in].
std::vector<float> delta_of(const LoraWeights& pair) {
  const size_t rank = static_cast<size_t>(pair.rank);
  const size_t in = pair.a.size() / rank;
  std::vector<float> delta;
  for (size_t o = 0; o < pair.b.size() / rank; ++o) {
    for (size_t i = 0; i < in; ++i) {
      double sum = 0;
      for (size_t r = 0; r < rank; ++r) sum += double{pair.b[o * rank + r]} * pair.a[r * in + i];
      delta.push_back(static_cast<float>(pair.scale * sum));
    }
  }
  return delta;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = a.size() == b.size() ? 0 : 1e30;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  }
  return std::sqrt(sum);
}

TEST_F(LoraInit, FalseDrawsBothMatricesAsPyTorchDraws) {
  const auto adapter = create("false");
  for (const auto& [path, pair] : adapter->weights()) {
    const auto in = static_cast<double>(pair.a.size()) / static_cast<double>(pair.rank);
    for (const auto& [values, fan_in] : {std::pair(&pair.a, in), std::pair(&pair.b, 4.0)}) {
      const auto [low, high] = std::minmax_element(values->begin(), values->end());
      const double bound = 1.0 / std::sqrt(fan_in);
      EXPECT_GT(*high, 0.85 * bound) << path;
      EXPECT_LE(*high, bound) << path;
      EXPECT_LT(*low, -0.85 * bound) << path;
      EXPECT_GE(*low, -bound) << path;
    }
    EXPECT_NE(pair.a[0] * 4, pair.b[0] * 2 * std::sqrt(in)) << "A and B are not the same numbers";
  }
}

TEST_F(LoraInit, PissaTakesTheLargestDirectionsAndLeavesTheOutputAsItIs) {
  const auto adapter = create("pissa");
  const auto logits = all_logits(*model(), kTokens, adapter.get());
  EXPECT_LT(distance(logits, all_logits(*model(), kTokens)), 1e-4);
  for (const auto& [path, pair] : adapter->weights()) {
    ASSERT_NE(pair.start, nullptr);
    EXPECT_EQ(pair.start->a, pair.a);
    EXPECT_EQ(pair.start->scale, -pair.scale);
    // What is left of the weight is far smaller than it was.
    const std::vector<float> weight = model()->tensor_values(path + ".weight");
    const std::vector<float> zero(weight.size());
    EXPECT_LT(distance(delta_of(pair), weight), 0.9 * distance(weight, zero)) << path;
  }
  const auto exact = create("pissa");
  EXPECT_EQ(exact->weights().begin()->second.b, adapter->weights().begin()->second.b);
}

TEST_F(LoraInit, PowerIterationComesNearTheExactDecomposition) {
  const auto exact = create("pissa");
  const auto rough = create("pissa_niter_0");
  const auto near = create("pissa_niter_16");
  for (const auto& [path, pair] : exact->weights()) {
    const std::vector<float> weight = model()->tensor_values(path + ".weight");
    const double best = distance(delta_of(pair), weight);
    EXPECT_GT(distance(delta_of(*rough->find(path)), weight), 1.02 * best) << path;
    EXPECT_LT(distance(delta_of(*near->find(path)), weight), 1.01 * best) << path;
  }
}

// The golden's products are PEFT's; the scale of 1/2 is taken out of them.
TEST_F(LoraInit, LoftqIsPeftsDecompositionOfWhatQuantizingLost) {
  options_.loftq_weights = golden("../peft/loftq/model.safetensors");
  const auto adapter = create("loftq");
  const auto file = SafetensorsFile::open(golden("../peft/loftq/golden.safetensors"));
  ASSERT_EQ(adapter->weights().size(), 4u);
  for (const auto& [path, pair] : adapter->weights()) {
    EXPECT_EQ(pair.start, nullptr);
    const TensorView& wanted = file->get(path + ".weight");
    std::vector<float> values(static_cast<size_t>(wanted.num_elements()));
    dequantize(wanted.type, wanted.data, values.data(), wanted.num_elements());
    EXPECT_LT(distance(delta_of(pair), values), 1e-5) << path;
  }
}

TEST_F(LoraInit, LoftqWantsOtherDenseWeightsThanTheBase) {
  options_.loftq_weights = golden("llama");
  expect_error(ErrorCode::kInvalidArgument, "holds just the weights that the base computes with",
               [&] { create("loftq"); });
  options_.loftq_weights = golden("llama_scaled");
  expect_error(ErrorCode::kInvalidArgument, "q_proj.weight' is not dense or not [32, 32]",
               [&] { create("loftq"); });
  options_.loftq_weights = golden("absent");
  expect_error(ErrorCode::kNotFound, "absent", [&] { create("loftq"); });
}

TEST_F(LoraInit, WhatMatchesNothingOrTooMuchIsNamed) {
  settings_.modules_to_save = {"lm_head", "score"};
  expect_error(ErrorCode::kInvalidArgument, "modules_to_save holds \"score\", which is no module",
               [&] { create("true"); });
  settings_.modules_to_save = {"proj"};
  expect_error(ErrorCode::kInvalidArgument,
               "which target_modules [\"down_proj\",\"q_proj\"] adapts", [&] { create("true"); });
  settings_.modules_to_save.clear();
  settings_.r = 33;
  expect_error(ErrorCode::kInvalidArgument,
               "is 33, and init_lora_weights pissa has only the 32 singular directions",
               [&] { create("pissa"); });
  settings_.r = 4;
  expect_error(ErrorCode::kInvalidArgument, "init_lora_weights is 'olora', wanted",
               [&] { create("olora"); });
}

TEST_F(LoraInit, CopiesAreTheModelsOwnValuesAndChangeNothing) {
  settings_.modules_to_save = {"lm_head", "embed_tokens", "norm", "up_proj"};
  const auto adapter = create("true");
  EXPECT_EQ(adapter->full().size(), 2u + 5u + 2u);
  EXPECT_EQ(all_logits(*model(), kTokens, adapter.get()), all_logits(*model(), kTokens));
  const LoadedGenerator biased = load_generator(golden("llama_scaled"), kernels::Precision::kExact);
  settings_.modules_to_save = {"layers.1.mlp"};
  settings_.bias = "all";
  settings_.target_modules = {"q_proj"};
  const auto with_biases =
      create_adapter(LoraConfig::from_settings(settings_), *biased.model, LoraInitOptions());
  EXPECT_EQ(with_biases->full().size(), 3u + 14u);
  EXPECT_EQ(all_logits(*biased.model, kTokens, with_biases.get()),
            all_logits(*biased.model, kTokens));
}

// Rows of one step run with whole parameters of their own, others with the model's.
TEST_F(LoraInit, AMixedBatchComputesWhatEachAdapterComputesAlone) {
  const std::string peft = golden("../peft/");
  const auto head = LoraAdapter::load(peft + "saved_head", *model());
  const auto embedding = LoraAdapter::load(peft + "saved_embedding", *model());
  const auto plain = LoraAdapter::load(peft + "q_v", *model());
  const std::vector<const LoraAdapter*> adapters = {head.get(), nullptr, embedding.get(),
                                                    plain.get(), head.get()};
  std::vector<testing_util::Sequence> sequences;
  for (const LoraAdapter* adapter : adapters) sequences.emplace_back(*model(), kTokens, adapter);
  std::vector<SequenceChunk> chunks;
  for (auto& sequence : sequences) chunks.push_back(sequence.chunk(9));
  const std::vector<float> together = model()->forward(chunks);
  const size_t size = together.size() / adapters.size();
  for (size_t i = 0; i < adapters.size(); ++i) {
    const std::vector<float> alone = all_logits(*model(), kTokens, adapters[i]);
    const auto begin = together.begin() + static_cast<int64_t>(i * size);
    EXPECT_EQ(std::vector<float>(begin, begin + static_cast<int64_t>(size)), alone) << i;
  }
}

}  // namespace
}  // namespace quarry
