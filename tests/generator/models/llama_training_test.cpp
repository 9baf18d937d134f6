#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/models/causal_lm.h"
#include "generator/nn/lora_config.h"
#include "generator/nn/lora_training.h"
#include "generator/weights/safetensors_file.h"
#include "tests/generator/models/model_test_util.h"

namespace quarry {
namespace {

using testing_util::golden;

constexpr int32_t kVocab = 288;

// An adapter on every Linear whose A and B are both at work.
std::unique_ptr<LoraAdapter> busy_adapter(const CausalLm& model) {
  auto adapter = LoraAdapter::load(golden("llama") + "/lora_all", model);
  for (auto& [path, weights] : adapter->mutable_weights()) {
    for (size_t i = 0; i < weights.b.size(); ++i) {
      weights.b[i] += 0.05f * std::sin(static_cast<float>(i));
    }
    weights.pack();
  }
  return adapter;
}

// Tokens that no pattern repeats, drawn from `seed`.
std::vector<int32_t> some_tokens(int64_t count, int32_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    seed = (seed * 1103 + 12345) % 65536;
    tokens.push_back(seed % kVocab);
  }
  return tokens;
}

// One sequence whose tokens from `first_target` on are targets.
TokenTree lone_sequence(const std::vector<int32_t>& tokens, int64_t first_target) {
  TokenTree tree;
  tree.tokens.assign(tokens.begin(), tokens.end() - 1);
  for (size_t i = 0; i < tree.tokens.size(); ++i) {
    tree.positions.push_back(static_cast<int32_t>(i));
  }
  tree.segments = {{0, static_cast<int64_t>(tree.tokens.size()), -1}};
  for (size_t i = static_cast<size_t>(first_target); i < tokens.size(); ++i) {
    tree.targets.push_back({static_cast<int64_t>(i) - 1, tokens[i], 1.0f});
  }
  return tree;
}

// Two sequences that share their first 20 tokens and then differ, as one tree.
struct SharedPair {
  std::vector<int32_t> first = some_tokens(27, 1);
  std::vector<int32_t> second;
  TokenTree tree;

  SharedPair() {
    second.assign(first.begin(), first.begin() + 20);
    const auto rest = some_tokens(9, 77);
    second.insert(second.end(), rest.begin(), rest.end());
    tree.segments = {{0, 20, -1}, {20, 26, 0}, {26, 34, 0}};
    tree.tokens.assign(first.begin(), first.end() - 1);
    tree.tokens.insert(tree.tokens.end(), second.begin() + 20, second.end() - 1);
    for (int32_t i = 0; i < 26; ++i) tree.positions.push_back(i);
    for (int32_t i = 20; i < 28; ++i) tree.positions.push_back(i);
    // Row 19, the last shared one, has a target on each path.
    tree.targets.push_back({19, first[20], 1.0f});
    for (size_t i = 21; i < first.size(); ++i) {
      tree.targets.push_back({static_cast<int64_t>(i) - 1, first[i], 1.0f});
    }
    tree.targets.push_back({19, second[20], 1.0f});
    for (size_t i = 21; i < second.size(); ++i) {
      tree.targets.push_back({static_cast<int64_t>(i) + 5, second[i], 1.0f});
    }
  }
};

class LlamaTraining : public ::testing::Test {
 protected:
  LlamaTraining()
      : loaded_(load_generator(golden("llama"), kernels::Precision::kExact)),
        adapter_(busy_adapter(*loaded_.model)),
        gradients_(*adapter_) {
    exact_.compute = GradientOptions::Compute::kFloat32;
  }
  std::vector<float> learn(const TokenTree& tree, const GradientOptions& options,
                           LoraGradients& gradients) const {
    return loaded_.model->accumulate_gradients(tree, *adapter_, options, gradients);
  }
  double loss(const TokenTree& tree) const {
    double total = 0.0;
    const std::vector<float> losses = loaded_.model->target_losses(tree, adapter_.get());
    for (size_t i = 0; i < losses.size(); ++i) {
      total += double{losses[i]} * double{tree.targets[i].weight};
    }
    return total;
  }

  LoadedGenerator loaded_;
  std::unique_ptr<LoraAdapter> adapter_;
  LoraGradients gradients_;
  GradientOptions exact_;
};

void expect_equal(LoraGradients& found, LoraGradients& wanted, double tolerance) {
  for (auto& [path, pair] : wanted.pairs()) {
    double size = 0.0;
    for (const auto* values : {&pair.a, &pair.b}) {
      for (const float value : *values) size = std::max(size, std::fabs(double{value}));
    }
    ASSERT_GT(size, 0.0) << path << " has no gradient: the comparison would say nothing";
    const LoraGradients::Pair& other = found.at(path);
    for (size_t i = 0; i < pair.a.size(); ++i) {
      ASSERT_NEAR(other.a[i], pair.a[i], tolerance * size) << path << " A " << i;
    }
    for (size_t i = 0; i < pair.b.size(); ++i) {
      ASSERT_NEAR(other.b[i], pair.b[i], tolerance * size) << path << " B " << i;
    }
  }
}

TEST_F(LlamaTraining, GradientsMatchFiniteDifferences) {
  const SharedPair pair;
  const std::vector<float> losses = learn(pair.tree, exact_, gradients_);
  ASSERT_EQ(losses.size(), pair.tree.targets.size());
  EXPECT_EQ(losses, loaded_.model->target_losses(pair.tree, adapter_.get()));
  for (auto& [path, weights] : adapter_->mutable_weights()) {
    for (std::vector<float>* matrix : {&weights.a, &weights.b}) {
      const LoraGradients::Pair& gradient = gradients_.at(path);
      const std::vector<float>& slope = matrix == &weights.a ? gradient.a : gradient.b;
      // Along the gradient itself, where the change is largest against float32's noise.
      double norm = 0.0;
      for (const float value : slope) norm += double{value} * value;
      norm = std::sqrt(norm);
      ASSERT_GT(norm, 1e-3) << path;
      const std::vector<float> before = *matrix;
      const double h = 0.02 / std::max(1.0, norm);
      double loss_at[2];
      for (const int side : {0, 1}) {
        for (size_t i = 0; i < before.size(); ++i) {
          (*matrix)[i] = before[i] + static_cast<float>((side == 0 ? -h : h) * slope[i] / norm);
        }
        weights.pack();
        loss_at[side] = loss(pair.tree);
      }
      *matrix = before;
      weights.pack();
      EXPECT_NEAR((loss_at[1] - loss_at[0]) / (2.0 * h), norm, 4e-3 * norm + 2e-3) << path;
    }
  }
}

TEST_F(LlamaTraining, SharedBeginningsChangeNeitherLossNorGradient) {
  const SharedPair pair;
  const std::vector<float> together = learn(pair.tree, exact_, gradients_);
  LoraGradients alone(*adapter_);
  std::vector<float> apart = learn(lone_sequence(pair.first, 20), exact_, alone);
  const std::vector<float> second = learn(lone_sequence(pair.second, 20), exact_, alone);
  apart.insert(apart.end(), second.begin(), second.end());
  EXPECT_EQ(together, apart);
  expect_equal(gradients_, alone, 2e-6);
}

// The test of a leak: what one branch says must not reach its sibling.
TEST_F(LlamaTraining, ABranchDoesNotSeeItsSibling) {
  SharedPair pair;
  const std::vector<float> before = loaded_.model->target_losses(pair.tree, adapter_.get());
  for (int64_t row = 20; row < 26; ++row) {
    pair.tree.tokens[static_cast<size_t>(row)] =
        (pair.tree.tokens[static_cast<size_t>(row)] + 1) % kVocab;
  }
  const std::vector<float> after = loaded_.model->target_losses(pair.tree, adapter_.get());
  EXPECT_NE(before[3], after[3]);
  for (size_t i = 7; i < before.size(); ++i) EXPECT_EQ(before[i], after[i]) << i;
}

TEST_F(LlamaTraining, CheckpointingChangesNothing) {
  const SharedPair pair;
  const std::vector<float> losses = learn(pair.tree, exact_, gradients_);
  GradientOptions checkpointed = exact_;
  checkpointed.checkpoint_layers = true;
  LoraGradients again(*adapter_);
  EXPECT_EQ(learn(pair.tree, checkpointed, again), losses);
  expect_equal(again, gradients_, 1e-7);
}

TEST_F(LlamaTraining, BFloat16ActivationsStayNearTheExactGradient) {
  const SharedPair pair;
  const std::vector<float> losses = learn(pair.tree, exact_, gradients_);
  GradientOptions rounded;
  rounded.compute = GradientOptions::Compute::kBFloat16;
  LoraGradients near(*adapter_);
  EXPECT_EQ(learn(pair.tree, rounded, near), losses);
  expect_equal(near, gradients_, 0.02);
}

TEST_F(LlamaTraining, WeightsScaleTheGradientAndStepsAddUp) {
  SharedPair pair;
  learn(pair.tree, exact_, gradients_);
  for (TokenTree::Target& target : pair.tree.targets) target.weight = 0.25f;
  LoraGradients quarters(*adapter_);
  for (int i = 0; i < 4; ++i) learn(pair.tree, exact_, quarters);
  expect_equal(quarters, gradients_, 1e-6);
  quarters.zero();
  for (auto& [path, gradient] : quarters.pairs()) {
    for (const float value : gradient.a) ASSERT_EQ(value, 0.0f) << path;
  }
}

// Whatever the model ran before.
TEST_F(LlamaTraining, LossesRoundAsAGradientStepDoes) {
  const LoadedGenerator fast = load_generator(golden("llama"), kernels::Precision::kFast);
  const SharedPair pair;
  constexpr auto kRounded = GradientOptions::Compute::kBFloat16;
  const std::vector<float> first = fast.model->target_losses(pair.tree, adapter_.get(), kRounded);
  GradientOptions options;
  options.compute = kRounded;
  EXPECT_EQ(first, fast.model->accumulate_gradients(pair.tree, *adapter_, options, gradients_));
  fast.model->target_losses(pair.tree, adapter_.get());
  EXPECT_EQ(first, fast.model->target_losses(pair.tree, adapter_.get(), kRounded));
}

TEST_F(LlamaTraining, AFreshAdapterIsTheBaseAndLearnsOnlyB) {
  LoraSettings settings;
  settings.r = 4;
  settings.target_all_linear = true;
  const LoraConfig config = LoraConfig::from_settings(settings);
  adapter_ = create_adapter(config, loaded_.model->linear_slots(), "true", 7);
  const SharedPair pair;
  EXPECT_EQ(loaded_.model->target_losses(pair.tree, adapter_.get()),
            loaded_.model->target_losses(pair.tree, nullptr));
  LoraGradients gradients(*adapter_);
  learn(pair.tree, exact_, gradients);
  for (auto& [path, gradient] : gradients.pairs()) {
    for (const float value : gradient.a) ASSERT_EQ(value, 0.0f) << path;
    float largest = 0.0f;
    for (const float value : gradient.b) largest = std::max(largest, std::fabs(value));
    EXPECT_GT(largest, 0.0f) << path;
  }
}

TEST_F(LlamaTraining, DropoutIsTheSameWhenComputedAgainAndAnotherWithAnotherSeed) {
  const SharedPair pair;
  gradients_.set_dropout(0.3f, 5);
  const std::vector<float> losses = learn(pair.tree, exact_, gradients_);
  EXPECT_NE(losses, loaded_.model->target_losses(pair.tree, adapter_.get()));
  LoraGradients again(*adapter_);
  again.set_dropout(0.3f, 5);
  GradientOptions checkpointed = exact_;
  checkpointed.checkpoint_layers = true;
  EXPECT_EQ(learn(pair.tree, checkpointed, again), losses);
  expect_equal(again, gradients_, 1e-6);
  again.set_dropout(0.3f, 6);
  EXPECT_NE(learn(pair.tree, exact_, again), losses);
}

TEST_F(LlamaTraining, ThreadsDoNotChangeTheGradient) {
  const SharedPair pair;
  const int threads = num_threads();
  set_num_threads(1);
  learn(pair.tree, exact_, gradients_);
  set_num_threads(3);
  LoraGradients many(*adapter_);
  learn(pair.tree, exact_, many);
  set_num_threads(threads);
  expect_equal(many, gradients_, 0.0);
}

// Weights in the form that the CPU multiplies best, where a bf16 pass rounds what it multiplies.
class LlamaTrainingRounded : public LlamaTraining {
 protected:
  LlamaTrainingRounded() {
    loaded_ = load_generator(golden("llama"), kernels::Precision::kFast);
    rounded_.compute = GradientOptions::Compute::kBFloat16;
  }
  GradientOptions rounded_;
};

// |found - wanted| / |wanted|
double relative_distance(const std::vector<float>& found, const std::vector<float>& wanted) {
  double apart = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    apart += std::pow(double{found[i]} - wanted[i], 2);
    size += std::pow(double{wanted[i]}, 2);
  }
  return std::sqrt(apart / size);
}

// In a model of 32 columns little averages out.
TEST_F(LlamaTrainingRounded, StaysNearTheExactGradient) {
  const SharedPair pair;
  const std::vector<float> losses = learn(pair.tree, exact_, gradients_);
  LoraGradients near(*adapter_);
  const std::vector<float> found = learn(pair.tree, rounded_, near);
  for (size_t i = 0; i < losses.size(); ++i) EXPECT_NEAR(found[i], losses[i], 0.02 * losses[i]);
  for (auto& [path, pair] : gradients_.pairs()) {
    const LoraGradients::Pair& other = near.at(path);
    EXPECT_LT(relative_distance(other.a, pair.a), 0.12) << path;
    EXPECT_LT(relative_distance(other.b, pair.b), 0.12) << path;
  }
}

TEST_F(LlamaTrainingRounded, SharedBeginningsDoNotChangeTheLoss) {
  const SharedPair pair;
  const std::vector<float> shared = learn(pair.tree, rounded_, gradients_);
  std::vector<float> apart = learn(lone_sequence(pair.first, 20), rounded_, gradients_);
  const auto second = learn(lone_sequence(pair.second, 20), rounded_, gradients_);
  apart.insert(apart.end(), second.begin(), second.end());
  EXPECT_EQ(shared, apart);
}

TEST_F(LlamaTrainingRounded, CheckpointingChangesNothing) {
  const SharedPair pair;
  gradients_.set_dropout(0.3f, 5);
  const std::vector<float> losses = learn(pair.tree, rounded_, gradients_);
  GradientOptions checkpointed = rounded_;
  checkpointed.checkpoint_layers = true;
  LoraGradients again(*adapter_);
  again.set_dropout(0.3f, 5);
  EXPECT_EQ(learn(pair.tree, checkpointed, again), losses);
  expect_equal(again, gradients_, 1e-7);
}

TEST_F(LlamaTrainingRounded, ThreadsDoNotChangeTheGradient) {
  const SharedPair pair;
  const int threads = num_threads();
  set_num_threads(1);
  learn(pair.tree, rounded_, gradients_);
  set_num_threads(3);
  LoraGradients many(*adapter_);
  learn(pair.tree, rounded_, many);
  set_num_threads(threads);
  expect_equal(many, gradients_, 0.0);
}

// The batch of a golden of Python PEFT: every sequence a tree, the mean over all targets.
std::vector<TokenTree> peft_batch(const SafetensorsFile& file) {
  const TensorView& ids = file.get("input_ids");
  const TensorView& labels = file.get("labels");
  const auto* id = reinterpret_cast<const int64_t*>(ids.data);
  const auto* label = reinterpret_cast<const int64_t*>(labels.data);
  std::vector<TokenTree> batch;
  size_t num_targets = 0;
  for (int64_t b = 0; b < ids.shape[0]; ++b) {
    TokenTree tree;
    for (int32_t t = 0; t < ids.shape[1]; ++t) {
      const int64_t at = b * ids.shape[1] + t;
      tree.tokens.push_back(static_cast<int32_t>(id[at]));
      tree.positions.push_back(t);
      if (t > 0 && label[at] >= 0) {
        tree.targets.push_back({t - 1, static_cast<int32_t>(label[at]), 1.0f});
      }
    }
    tree.segments = {{0, ids.shape[1], -1}};
    num_targets += tree.targets.size();
    batch.push_back(std::move(tree));
  }
  for (TokenTree& tree : batch) {
    for (TokenTree::Target& target : tree.targets) {
      target.weight = 1.0f / static_cast<float>(num_targets);
    }
  }
  return batch;
}

// Folder of golden/peft, and its base model.
using PeftCase = std::pair<const char*, const char*>;
class PeftGradients : public ::testing::TestWithParam<PeftCase> {};

void expect_near(const std::vector<float>& found, const TensorView& wanted) {
  const auto* values = reinterpret_cast<const float*>(wanted.data);
  ASSERT_EQ(static_cast<int64_t>(found.size()), wanted.num_elements()) << wanted.name;
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], values[i], 1e-5) << wanted.name << " " << i;
  }
}

TEST_P(PeftGradients, LossAndGradientsEqualPython) {
  const std::string folder =
      std::string(QUARRY_SOURCE_DIR) + "/tests/golden/peft/" + GetParam().first;
  const auto file = SafetensorsFile::open(folder + "/golden.safetensors");
  const LoadedGenerator loaded =
      load_generator(golden(GetParam().second), kernels::Precision::kExact);
  const auto adapter = LoraAdapter::load(folder, *loaded.model);
  const LoraConfig config = LoraConfig::load(folder + "/adapter_config.json");
  LoraGradients gradients(*adapter);
  GradientOptions options;
  options.compute = GradientOptions::Compute::kFloat32;
  double loss = 0.0;
  for (const TokenTree& tree : peft_batch(*file)) {
    const auto losses = loaded.model->accumulate_gradients(tree, *adapter, options, gradients);
    for (const float value : losses) loss += double{value} * double{tree.targets[0].weight};
  }
  const auto* losses = reinterpret_cast<const float*>(file->get("losses").data);
  EXPECT_NEAR(loss, losses[0], 1e-5);
  for (const auto& [path, pair] : gradients.pairs()) {
    for (const char* half : {".lora_A.weight", ".lora_B.weight"}) {
      const TensorView& wanted = file->get("grad.base_model.model." + path + half);
      expect_near(half[6] == 'A' ? pair.a : pair.b, wanted);
    }
  }
  for (const auto& [name, gradient] : gradients.full()) {
    expect_near(gradient, file->get("grad." + config.stored_name(name)));
  }
}

// The same with layers computed again in the backward pass.
TEST_P(PeftGradients, CheckpointingChangesNothing) {
  const std::string folder =
      std::string(QUARRY_SOURCE_DIR) + "/tests/golden/peft/" + GetParam().first;
  const LoadedGenerator loaded =
      load_generator(golden(GetParam().second), kernels::Precision::kExact);
  const auto adapter = LoraAdapter::load(folder, *loaded.model);
  const auto file = SafetensorsFile::open(folder + "/golden.safetensors");
  LoraGradients plain(*adapter);
  LoraGradients checkpointed(*adapter);
  GradientOptions options;
  options.compute = GradientOptions::Compute::kFloat32;
  for (const TokenTree& tree : peft_batch(*file)) {
    options.checkpoint_layers = false;
    loaded.model->accumulate_gradients(tree, *adapter, options, plain);
    options.checkpoint_layers = true;
    loaded.model->accumulate_gradients(tree, *adapter, options, checkpointed);
  }
  expect_equal(checkpointed, plain, 1e-6);
  for (const auto& [name, gradient] : plain.full()) {
    EXPECT_EQ(gradient, checkpointed.full_at(name)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Adapters, PeftGradients,
    ::testing::Values(PeftCase("q_v", "llama"), PeftCase("all_linear", "llama"),
                      PeftCase("rslora", "llama"), PeftCase("patterns", "llama"),
                      PeftCase("saved_head", "llama"), PeftCase("saved_embedding", "llama"),
                      PeftCase("saved_mlp", "llama_scaled"), PeftCase("bias_all", "llama_scaled"),
                      PeftCase("bias_lora_only", "llama_scaled")));

TEST_F(LlamaTraining, WhatIsOutOfRangeIsRefusedByName) {
  const auto message = [&](const TokenTree& tree) -> std::string {
    try {
      loaded_.model->target_losses(tree, nullptr);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  SharedPair pair;
  TokenTree tree = pair.tree;
  tree.targets[2].row = 34;
  EXPECT_THAT(message(tree), ::testing::HasSubstr("a target at row 34 of a tree with 34 rows"));
  tree = pair.tree;
  tree.tokens[3] = kVocab;
  EXPECT_THAT(message(tree), ::testing::HasSubstr("token 288 is outside the vocabulary of 288"));
  tree = pair.tree;
  tree.positions[3] = 128;
  EXPECT_THAT(message(tree), ::testing::HasSubstr("position 128 is outside the context of 128"));
  tree = pair.tree;
  tree.targets.clear();
  EXPECT_THAT(message(tree), ::testing::HasSubstr("no target"));
}

}  // namespace
}  // namespace quarry
