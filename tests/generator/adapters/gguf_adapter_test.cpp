#include "generator/adapters/gguf_adapter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "generator/weights/gguf_writer.h"
#include "tests/generator/adapters/adapter_test_util.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::kGolden;

std::vector<float> floats(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.num_elements()));
  dequantize(view.type, view.data, values.data(), view.num_elements());
  return values;
}

// B A [out, in], times scale.
std::vector<float> delta(const std::vector<float>& a, const std::vector<float>& b, int64_t rank,
                         double scale) {
  const int64_t in = static_cast<int64_t>(a.size()) / rank;
  const int64_t out = static_cast<int64_t>(b.size()) / rank;
  std::vector<float> result;
  for (int64_t row = 0; row < out; ++row) {
    for (int64_t column = 0; column < in; ++column) {
      double sum = 0;
      for (int64_t k = 0; k < rank; ++k) {
        sum += double{b[static_cast<size_t>(row * rank + k)]} *
               a[static_cast<size_t>(k * in + column)];
      }
      result.push_back(static_cast<float>(scale * sum));
    }
  }
  return result;
}

class GgufAdapterTest : public ::testing::TestWithParam<test::PeftAdapter> {
 protected:
  fs::path peft() const { return fs::path(kGolden) / "peft" / GetParam().name; }

  test::TemporaryFolder folder_;
  fs::path gguf_ = folder_.path() / "adapter.gguf";
  std::unique_ptr<ModelFile> base_ = test::open_model(kGolden + "models/llama");
};

// llama.cpp computes alpha / r * B A with rows of q and k interleaved.
TEST_P(GgufAdapterTest, LlamaCppComputesWhatPeftDoes) {
  adapter_to_gguf(peft(), *base_, gguf_);
  const auto file = GgufFile::open(gguf_);
  EXPECT_EQ(file->get_string("general.type"), "adapter");
  EXPECT_EQ(file->get_string("general.architecture"), "llama");
  EXPECT_EQ(file->get_string("adapter.type"), "lora");
  const double alpha = file->get_float("adapter.lora.alpha");
  const auto adapter = LoraAdapter::load(peft(), base_->slots(), base_->tensor_slots());
  const LoraConfig config = LoraConfig::load(peft() / "adapter_config.json");
  constexpr int64_t kHeadDim = 8;
  size_t found = 0;
  for (const ModelLayout::Linear& linear : base_->layout().linears) {
    const LoraWeights* wanted = adapter->find(linear.slot.path);
    const TensorView* a = file->find(linear.weight.gguf_name + ".lora_a");
    ASSERT_EQ(a != nullptr, wanted != nullptr) << linear.slot.path;
    if (wanted == nullptr) continue;
    const TensorView& b = file->get(linear.weight.gguf_name + ".lora_b");
    found += 2;
    EXPECT_THAT(a->shape, ::testing::ElementsAre(wanted->rank, linear.slot.in_features));
    EXPECT_THAT(b.shape, ::testing::ElementsAre(linear.slot.out_features, wanted->rank));
    const auto got =
        delta(floats(*a), floats(b), wanted->rank, alpha / static_cast<double>(wanted->rank));
    const auto peft = delta(wanted->a, wanted->b, wanted->rank, config.scale(linear.slot.path));
    const bool interleaved = linear.slot.path.find("q_proj") != std::string::npos ||
                             linear.slot.path.find("k_proj") != std::string::npos;
    const int64_t in = linear.slot.in_features;
    for (int64_t row = 0; row < linear.slot.out_features; ++row) {
      const int64_t in_head = row % kHeadDim;
      const int64_t there = interleaved ? row - in_head + in_head % 4 * 2 + in_head / 4 : row;
      for (int64_t i = 0; i < in; ++i) {
        ASSERT_NEAR(got[static_cast<size_t>(there * in + i)],
                    peft[static_cast<size_t>(row * in + i)], 1e-6)
            << linear.slot.path << " row " << row;
      }
    }
  }
  EXPECT_EQ(file->tensors().size(), found);
}

TEST_P(GgufAdapterTest, ComesBackAsAnEqualPeftFolder) {
  adapter_to_gguf(peft(), *base_, gguf_);
  const fs::path back = folder_.path() / "back";
  gguf_to_adapter(gguf_, *base_, back);
  EXPECT_LT(test::largest_difference(test::logits_of(kGolden + "models/llama", back),
                                     test::logits_of(kGolden + "models/llama", peft())),
            1e-5);
}

TEST(GgufAdapter, WholeParametersHaveNoPlaceInIt) {
  const test::TemporaryFolder folder;
  for (const test::PeftAdapter& adapter : test::kPeftFullAdapters) {
    const auto base = test::open_model(kGolden + "models/" + adapter.base);
    expect_error(
        ErrorCode::kInvalidArgument,
        "whole (modules_to_save or bias), and a GGUF adapter holds the LoRA of Linears only", [&] {
          adapter_to_gguf(kGolden + "peft/" + adapter.name, *base, folder.path() / "adapter.gguf");
        });
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, GgufAdapterTest, ::testing::ValuesIn(test::kPeftAdapters));

class PlainGgufAdapter : public GgufAdapterTest {
 protected:
  // A small sound adapter, then changed.
  void build(const std::function<void(test::GgufBuilder&)>& change) {
    test::GgufBuilder builder;
    builder.set_string("general.type", "adapter");
    builder.set_string("general.architecture", "llama");
    builder.set_string("adapter.type", "lora");
    builder.set_float("adapter.lora.alpha", 0);
    builder.add_tensor("blk.0.attn_v.weight.lora_a", WeightType::kF32, {2, 32},
                       std::vector<float>(64, 0.5f));
    builder.add_tensor("blk.0.attn_v.weight.lora_b", WeightType::kF32, {16, 2},
                       std::vector<float>(32, 0.25f));
    change(builder);
    builder.write(gguf_);
  }
  void expect_refused(ErrorCode code, const std::string& part) {
    expect_error(code, part, [&] { gguf_to_adapter(gguf_, *base_, folder_.path() / "back"); });
    EXPECT_FALSE(fs::exists(folder_.path() / "back"));
  }
};

TEST_P(PlainGgufAdapter, ItsMatricesAndConfigurationAreKept) {
  adapter_to_gguf(peft(), *base_, gguf_);
  const fs::path back = folder_.path() / "back";
  gguf_to_adapter(gguf_, *base_, back);
  const auto original = SafetensorsFile::open(peft() / "adapter_model.safetensors");
  const auto written = SafetensorsFile::open(back / "adapter_model.safetensors");
  ASSERT_EQ(written->tensors().size(), original->tensors().size());
  for (const TensorView& view : original->tensors()) {
    EXPECT_EQ(floats(written->get(view.name)), floats(view)) << view.name;
  }
  const Json config = read_json_file(back / "adapter_config.json");
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["lora_alpha"], 8);
  EXPECT_EQ(config["target_modules"], Json({"q_proj", "v_proj"}));
  EXPECT_EQ(config["rank_pattern"], Json::object());
}

TEST_P(PlainGgufAdapter, OneLinearIsTargetedByItsWholePathAndAlphaZeroIsScaleOne) {
  build([](test::GgufBuilder&) {});
  gguf_to_adapter(gguf_, *base_, folder_.path() / "back");
  const auto adapter =
      LoraAdapter::load(folder_.path() / "back", base_->slots(), base_->tensor_slots());
  EXPECT_EQ(adapter->find("model.layers.1.self_attn.v_proj"), nullptr);
  const LoraWeights* v = adapter->find("model.layers.0.self_attn.v_proj");
  ASSERT_NE(v, nullptr);
  EXPECT_EQ(v->scale, 1.0f);
  EXPECT_EQ(v->b[31], 0.25f);
}

TEST_P(PlainGgufAdapter, WhatIsNoAdapterForTheModelIsRefusedByName) {
  const auto ones = [](int64_t count) { return std::vector<float>(static_cast<size_t>(count), 1); };
  build([](test::GgufBuilder& b) { b.set_string("general.type", "model"); });
  expect_refused(ErrorCode::kCorruptData, "'general.type' is there twice");
  test::GgufBuilder model;
  model.set_string("general.type", "model");
  model.write(gguf_);
  expect_refused(ErrorCode::kInvalidArgument, "general.type is 'model', wanted 'adapter'");
  build([](test::GgufBuilder& b) { b.set_uint32("adapter.alora.invocation_tokens", 1); });
  expect_refused(ErrorCode::kInvalidArgument, "adapter.alora.invocation_tokens changes the maths");
  build([&](test::GgufBuilder& b) {
    b.add_tensor("token_embd.weight.lora_a", WeightType::kF32, {2, 32}, ones(64));
  });
  expect_refused(ErrorCode::kInvalidArgument, "'token_embd.weight.lora_a' is not the lora_a");
  build([&](test::GgufBuilder& b) {
    b.add_tensor("blk.0.attn_q.weight.lora_a", WeightType::kF32, {2, 32}, ones(64));
  });
  expect_refused(ErrorCode::kCorruptData, "holds only lora_a of 'blk.0.attn_q.weight'");
  build([&](test::GgufBuilder& b) {
    b.add_tensor("blk.0.attn_q.weight.lora_a", WeightType::kF32, {2, 16}, ones(32));
    b.add_tensor("blk.0.attn_q.weight.lora_b", WeightType::kF32, {32, 2}, ones(64));
  });
  expect_refused(ErrorCode::kInvalidArgument,
                 "'blk.0.attn_q.weight.lora_a' does not have the shape [2, 32]");
  build([&](test::GgufBuilder& b) {
    b.add_tensor("blk.0.attn_q.weight.lora_a", WeightType::kF32, {2, 32}, ones(64));
    std::vector<float> bad = ones(64);
    bad[5] = INFINITY;
    b.add_tensor("blk.0.attn_q.weight.lora_b", WeightType::kF32, {32, 2}, bad);
  });
  expect_refused(ErrorCode::kCorruptData, "lora_b' holds a value that is not finite");
}

TEST_P(PlainGgufAdapter, TheBaseModelIsCheckedInBothDirections) {
  const auto tiny = test::open_model(write_tiny_llama_gguf(folder_.path(), 1));
  const auto other = test::open_model(kGolden + "models/llama");
  AdapterNotes notes;
  notes.base_name = "tiny-llama";
  notes.base_content_hash = model_content_hash(tiny->location());
  LoraSettings settings;
  settings.target_modules = {"o_proj"};
  const fs::path adapter = folder_.path() / "adapter";
  test::save_random_adapter(settings, *tiny, notes, adapter);
  adapter_to_gguf(adapter, *tiny, gguf_);
  gguf_to_adapter(gguf_, *tiny, folder_.path() / "back");
  EXPECT_EQ(read_adapter_notes(folder_.path() / "back")->base_content_hash,
            notes.base_content_hash);
  const char* message = "was trained on 'tiny-llama'";
  expect_error(ErrorCode::kInvalidArgument, message,
               [&] { adapter_to_gguf(adapter, *other, folder_.path() / "x.gguf"); });
  expect_error(ErrorCode::kInvalidArgument, message,
               [&] { gguf_to_adapter(gguf_, *other, folder_.path() / "x"); });
}

INSTANTIATE_TEST_SUITE_P(Golden, PlainGgufAdapter, ::testing::Values(test::kPeftAdapters[0]));

}  // namespace
}  // namespace quarry
