#include "generator/nn/lora.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "data/core/json.h"
#include "generator/nn/lora_config.h"
#include "generator/weights/safetensors_file.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using test::expect_error;

constexpr const char* kQ = "base_model.model.model.layers.0.self_attn.q_proj";

TEST(LoraConfig, AdaptsTheModulesThatPeftAdaptsWithItsRanksAndScales) {
  const test::TemporaryFolder folder;
  const Json golden = read_json_file(QUARRY_SOURCE_DIR "/tests/golden/lora_targets/targets.json");
  for (const Json& item : golden["cases"]) {
    SCOPED_TRACE(item["name"].get<std::string>());
    const auto path = folder.path() / "adapter_config.json";
    test::write_file(path, dump_json(item["config"]));
    const LoraConfig config = LoraConfig::load(path);
    EXPECT_THAT(config.warnings(), ::testing::IsEmpty());
    const Json& adapted = item["adapted"];
    ASSERT_GT(adapted.size(), 0u);
    for (const Json& entry : golden["modules"]) {
      const std::string module = entry.get<std::string>();
      ASSERT_EQ(config.targets(module, module == "lm_head"), adapted.contains(module)) << module;
      if (!adapted.contains(module)) continue;
      EXPECT_EQ(config.rank(module), adapted[module][0].get<int64_t>()) << module;
      EXPECT_DOUBLE_EQ(config.scale(module), adapted[module][1].get<double>()) << module;
    }
  }
}

// A model of two Linears and an adapter of rank 2 for one of them.
class LoraAdapterTest : public ::testing::Test {
 protected:
  LoraAdapterTest() {
    config_ = {{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 8}, {"target_modules", {"q_proj"}}};
    add(std::string(kQ) + ".lora_A.weight", {2, 3}, {1, 2, 3, 4, 5, 6});
    add(std::string(kQ) + ".lora_B.weight", {4, 2}, {1, -1, 2, -2, 3, -3, 4, -4});
  }
  void add(const std::string& name, const std::vector<int64_t>& shape,
           const std::vector<float>& values, WeightType type = WeightType::kF32) {
    names_.push_back({name, type, shape});
    data_.push_back(test::encode(type, values));
  }
  std::unique_ptr<LoraAdapter> load() {
    test::write_file(folder_.path() / "adapter_config.json", dump_json(config_));
    std::vector<TensorToWrite> tensors = names_;
    for (size_t i = 0; i < tensors.size(); ++i) tensors[i].data = data_[i].data();
    write_safetensors(folder_.path() / "adapter_model.safetensors", tensors, {{"format", "pt"}});
    return LoraAdapter::load(folder_.path(), slots_, tensors_);
  }
  void expect_refused(ErrorCode code, const std::string& part) {
    expect_error(code, part, [&] { load(); });
  }

  test::TemporaryFolder folder_;
  Json config_;
  std::vector<TensorToWrite> names_;
  std::vector<std::string> data_;
  std::vector<CausalLm::LinearSlot> slots_ = {{"model.layers.0.self_attn.q_proj", 3, 4},
                                              {"model.layers.0.self_attn.k_proj", 3, 2}};
  std::vector<CausalLm::TensorSlot> tensors_ = {
      {"model.embed_tokens.weight", {3, 2}, CausalLm::TensorSlot::Use::kEmbedding},
      {"model.layers.0.self_attn.q_proj.weight", {4, 3}},
      {"model.layers.0.self_attn.q_proj.bias", {4}, CausalLm::TensorSlot::Use::kVector},
      {"model.layers.0.self_attn.k_proj.weight", {2, 3}},
      {"model.layers.0.self_attn.k_proj.bias", {2}, CausalLm::TensorSlot::Use::kVector},
      {"model.layers.0.input_layernorm.weight", {3}, CausalLm::TensorSlot::Use::kVector},
      {"lm_head.weight", {3, 2}}};
};

TEST_F(LoraAdapterTest, ReadsBothMatricesAndTheScale) {
  const auto adapter = load();
  EXPECT_EQ(adapter->find("model.layers.0.self_attn.k_proj"), nullptr);
  const LoraWeights* q = adapter->find("model.layers.0.self_attn.q_proj");
  ASSERT_NE(q, nullptr);
  EXPECT_EQ(q->rank, 2);
  EXPECT_FLOAT_EQ(q->scale, 4.0f);
  EXPECT_THAT(q->a, ::testing::ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(q->b, ::testing::ElementsAre(1, -1, 2, -2, 3, -3, 4, -4));
  EXPECT_NE(q->packed_a, nullptr);
  EXPECT_EQ(q->scaled_b.size(), q->b.size());
}

TEST_F(LoraAdapterTest, HalfPrecisionTensorsBecomeFloat) {
  names_.clear();
  data_.clear();
  add(std::string(kQ) + ".lora_A.weight", {2, 3}, {1, 2, 3, 4, 5, 6}, WeightType::kBF16);
  add(std::string(kQ) + ".lora_B.weight", {4, 2}, {1, -1, 2, -2, 3, -3, 4, -4}, WeightType::kF16);
  const auto adapter = load();
  EXPECT_EQ(adapter->find("model.layers.0.self_attn.q_proj")->a[5], 6.0f);
  EXPECT_EQ(adapter->find("model.layers.0.self_attn.q_proj")->b[7], -4.0f);
}

TEST_F(LoraAdapterTest, UnknownKeysAreWarnings) {
  config_["brand_new_option"] = 3;
  EXPECT_THAT(load()->warnings(),
              ::testing::ElementsAre(::testing::HasSubstr("unknown key \"brand_new_option\"")));
}

TEST_F(LoraAdapterTest, KeysThatChangeTheMathsAreRefusedByName) {
  const Json original = config_;
  const std::vector<std::pair<std::string, Json>> cases = {
      {"use_dora", true},
      {"bias", "some"},
      {"lora_bias", true},
      {"alora_invocation_tokens", Json::array({1, 2})},
      {"layer_replication", Json::array({Json::array({0, 1})})},
      {"target_parameters", Json::array({"x"})},
      {"trainable_token_indices", Json::array({1})},
      {"use_qalora", true},
      {"kasa_config", {{"a", 1}}},
      {"init_lora_weights", "pissa_niter_4"},
      {"init_lora_weights", "olora"},
      {"task_type", "CHAT"},
      {"peft_type", "IA3"}};
  for (const auto& [key, value] : cases) {
    config_ = original;
    config_[key] = value;
    expect_refused(ErrorCode::kInvalidArgument, key + " is " + dump_json(value));
  }
  config_ = original;
  config_["use_dora"] = false;
  config_["modules_to_save"] = nullptr;
  config_["target_parameters"] = Json::array();
  config_["init_lora_weights"] = "gaussian";
  load();
}

TEST_F(LoraAdapterTest, BrokenConfigurationsAreRefused) {
  const Json original = config_;
  const std::vector<std::pair<Json, std::string>> cases = {
      {{{"r", 0}}, "rank 0 is not a whole number"},
      {{{"r", 1.5}}, "rank 1.5 is not a whole number"},
      {{{"r", "2"}}, "r is \"2\", wanted a number"},
      {{{"use_rslora", 1}}, "use_rslora is 1, wanted true or false"},
      {{{"rank_pattern", 3}}, "rank_pattern is 3, wanted an object of numbers"},
      {{{"target_modules", {1}}}, "target_modules is [1], wanted a pattern or a list of names"}};
  for (const auto& [change, message] : cases) {
    config_ = original;
    config_.update(change);
    expect_refused(ErrorCode::kCorruptData, message);
  }
  config_ = original;
  config_.erase("target_modules");
  expect_refused(ErrorCode::kInvalidArgument, "has no target_modules");
  config_["target_modules"] = "(unclosed";
  expect_refused(ErrorCode::kInvalidArgument, "is not a regular expression");
  config_["target_modules"] = ".*q_proj";
  config_["layers_to_transform"] = {0};
  expect_refused(ErrorCode::kInvalidArgument, "layers_to_transform needs a list");
  config_.erase("peft_type");
  expect_refused(ErrorCode::kCorruptData, "has no \"peft_type\"");
}

TEST_F(LoraAdapterTest, CostlyPatternsEndInAnError) {
  slots_[0].path = std::string(60, 'a') + "!";
  config_["target_modules"] = "(a+)+[bc]";
  expect_refused(ErrorCode::kInvalidArgument, "failed with PCRE2 error");
}

TEST_F(LoraAdapterTest, HalfAPairIsNamed) {
  names_.pop_back();
  expect_refused(ErrorCode::kCorruptData, "lora_B.weight', only its lora_A");
  names_ = {names_[0]};
  names_[0].name = std::string(kQ) + ".lora_B.weight";
  expect_refused(ErrorCode::kCorruptData, "lora_A.weight', only its lora_B");
}

TEST_F(LoraAdapterTest, TensorsThatDoNotFitAreNamed) {
  slots_[0].in_features = 5;
  expect_refused(ErrorCode::kInvalidArgument,
                 "lora_A.weight' has shape [2, 3], this model and rank want [2, 5]");
  slots_[0].in_features = 3;
  config_["r"] = 4;
  expect_refused(ErrorCode::kInvalidArgument, "has shape [2, 3], this model and rank want [4, 3]");
  config_["r"] = 2;
  add(std::string(kQ) + ".lora_magnitude_vector", {4}, {1, 1, 1, 1});
  expect_refused(ErrorCode::kInvalidArgument, "LoRA of embeddings and DoRA are not supported");
  names_.back() = {
      "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight", WeightType::kF32, {4}};
  expect_refused(ErrorCode::kInvalidArgument,
                 "adapts 'model.layers.9.mlp.up_proj', which this model does not have");
  names_.back().name = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight";
  expect_refused(ErrorCode::kCorruptData, "which target_modules [\"q_proj\"] leaves out");
}

TEST_F(LoraAdapterTest, SavedModulesAreReadByTheEndOfTheirPath) {
  config_["modules_to_save"] = {"norm", "lm_head", "k_proj"};
  const std::string base = "base_model.model.";
  add(base + "model.layers.0.input_layernorm.weight", {3}, {1, 2, 3});
  add(base + "lm_head.weight", {3, 2}, {1, 2, 3, 4, 5, 6}, WeightType::kBF16);
  add(base + "model.layers.0.self_attn.k_proj.weight", {2, 3}, {6, 5, 4, 3, 2, 1});
  add(base + "model.layers.0.self_attn.k_proj.bias", {2}, {7, 8});
  const auto adapter = load();
  ASSERT_EQ(adapter->full().size(), 4u);
  EXPECT_THAT(adapter->find_full("model.layers.0.input_layernorm.weight")->values,
              ::testing::ElementsAre(1, 2, 3));
  EXPECT_EQ(adapter->find_full("lm_head.weight")->values[5], 6.0f);
  EXPECT_NE(adapter->find_full("lm_head.weight")->packed, nullptr);
  EXPECT_EQ(adapter->find_full("model.layers.0.self_attn.k_proj.bias")->packed, nullptr);
  EXPECT_EQ(adapter->find_full("model.embed_tokens.weight"), nullptr);
  names_.pop_back();
  data_.pop_back();
  expect_refused(ErrorCode::kCorruptData,
                 "holds no 'base_model.model.model.layers.0.self_attn.k_proj.bias', which "
                 "modules_to_save names");
  add(base + "model.layers.0.self_attn.k_proj.bias", {3}, {7, 8, 9});
  expect_refused(ErrorCode::kInvalidArgument, "k_proj.bias' has shape [3], this model wants [2]");
}

TEST_F(LoraAdapterTest, BiasesHaveTheNamesThatPeftGivesThem) {
  config_["bias"] = "lora_only";
  add(std::string(kQ) + ".base_layer.bias", {4}, {1, 2, 3, 4});
  EXPECT_EQ(load()->find_full("model.layers.0.self_attn.q_proj.bias")->values[3], 4.0f);
  config_["bias"] = "all";
  expect_refused(ErrorCode::kCorruptData, "k_proj.bias', which bias asks for");
  add("base_model.model.model.layers.0.self_attn.k_proj.bias", {2}, {5, 6});
  EXPECT_EQ(load()->full().size(), 2u);
  config_["bias"] = "none";
  expect_refused(ErrorCode::kInvalidArgument, "nor a bias that is trained");
}

TEST_F(LoraAdapterTest, WhatModulesToSaveCannotSayIsRefused) {
  const Json original = config_;
  config_["modules_to_save"] = "lm_head";
  expect_refused(ErrorCode::kCorruptData, "modules_to_save is \"lm_head\", wanted a list of names");
  config_["modules_to_save"] = {""};
  expect_refused(ErrorCode::kInvalidArgument, "modules_to_save holds an empty name");
  config_["modules_to_save"] = {"(lm_head"};
  expect_refused(ErrorCode::kInvalidArgument, "is not a regular expression");
  config_["modules_to_save"] = {"_proj"};
  expect_refused(ErrorCode::kInvalidArgument,
                 "modules_to_save selects 'model.layers.0.self_attn.q_proj', which target_modules "
                 "[\"q_proj\"] adapts as well");
  config_["modules_to_save"] = {"embed_tokens"};
  config_["ensure_weight_tying"] = true;
  expect_refused(ErrorCode::kInvalidArgument, "ensure_weight_tying is true beside modules_to_save");
  config_ = original;
  config_["ensure_weight_tying"] = true;
  load();
}

TEST_F(LoraAdapterTest, ValuesThatAreNotFiniteAreRefused) {
  data_[0] =
      test::encode(WeightType::kF32, {1, 2, std::numeric_limits<float>::quiet_NaN(), 4, 5, 6});
  expect_refused(ErrorCode::kCorruptData, "holds a value that is not finite");
}

TEST_F(LoraAdapterTest, MissingFilesAreNamedAndPicklesRefused) {
  expect_error(ErrorCode::kNotFound, "no such adapter folder",
               [&] { LoraAdapter::load(folder_.path() / "absent", slots_, tensors_); });
  expect_error(ErrorCode::kNotFound, "adapter_config.json: cannot open",
               [&] { LoraAdapter::load(folder_.path(), slots_, tensors_); });
  test::write_file(folder_.path() / "adapter_config.json", dump_json(config_));
  expect_error(ErrorCode::kNotFound, "holds no adapter_model.safetensors",
               [&] { LoraAdapter::load(folder_.path(), slots_, tensors_); });
  test::write_file(folder_.path() / "adapter_model.bin", "pickle");
  expect_error(ErrorCode::kInvalidArgument, "a Python pickle",
               [&] { LoraAdapter::load(folder_.path(), slots_, tensors_); });
  test::write_file(folder_.path() / "adapter_config.json", "[1]");
  expect_error(ErrorCode::kCorruptData, "is a JSON array, wanted an object",
               [&] { LoraAdapter::load(folder_.path(), slots_, tensors_); });
}

}  // namespace
}  // namespace quarry
