#include "finetune/optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "data/core/json.h"
#include "data/core/parallel_for.h"
#include "tests/support/random_values.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

// Parameters with their gradients, by name.
struct Model {
  std::map<std::string, std::vector<float>> values;
  std::map<std::string, std::vector<float>> gradients;

  void add(const std::string& name, std::vector<float> start) {
    gradients[name].assign(start.size(), 0);
    values[name] = std::move(start);
  }
  std::vector<ParameterView> views() {
    std::vector<ParameterView> views;
    for (auto& [name, value] : values) {
      ParameterView view;
      view.name = name;
      view.value = value.data();
      view.gradient = gradients[name].data();
      view.size = static_cast<int64_t>(value.size());
      view.decay = name != "no_decay";
      views.push_back(view);
    }
    return views;
  }
  std::vector<GradientView> gradient_views() {
    std::vector<GradientView> views;
    for (auto& [name, gradient] : gradients) {
      views.push_back({gradient.data(), static_cast<int64_t>(gradient.size())});
    }
    return views;
  }
};

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return concat(error_code_name(error.code()), " ", error.what());
  }
  return "no error";
}

TEST(AdamW, FollowsTorchForTenClippedSteps) {
  const Json golden = read_json_file(QUARRY_SOURCE_DIR "/tests/golden/optimizer/adamw.json");
  Model model;
  for (const auto& [name, start] : golden.at("start").items()) {
    model.add(name, start.get<std::vector<float>>());
  }
  AdamWOptions options;
  options.weight_decay = golden.at("weight_decay").get<double>();
  const auto optimizer = make_optimizer(OptimizerKind::kAdamW, options);
  ASSERT_EQ(golden.at("steps").size(), 10U);
  for (const Json& step : golden.at("steps")) {
    for (const auto& [name, gradient] : step.at("gradients").items()) {
      model.gradients[name] = gradient.get<std::vector<float>>();
    }
    const double norm = clip_gradients(model.gradient_views(), golden.at("max_norm").get<double>());
    const auto wanted_norm = step.at("norm").get<double>();
    EXPECT_NEAR(norm, wanted_norm, 1e-6 * wanted_norm);
    optimizer->step(model.views(), step.at("rate").get<double>());
    for (const auto& [name, wanted] : step.at("parameters").items()) {
      for (size_t i = 0; i < wanted.size(); ++i) {
        const auto value = wanted[i].get<float>();
        EXPECT_NEAR(model.values[name][i], value, 1e-6 + 1e-6 * std::fabs(value)) << name << i;
      }
    }
  }
  EXPECT_EQ(optimizer->num_steps(), 10);
}

TEST(AdamW, LearningRateScaleIsThatOfItsParameterAlone) {
  Model model;
  model.add("a", {1, 1});
  model.add("b", {1, 1});
  model.gradients["a"] = model.gradients["b"] = {0.5F, -0.5F};
  std::vector<ParameterView> views = model.views();
  views[1].learning_rate_scale = 16;
  make_optimizer(OptimizerKind::kAdamW)->step(views, 0.001);
  EXPECT_NEAR(model.values["a"][0], 0.999, 1e-6);
  EXPECT_NEAR(model.values["b"][0], 0.984, 1e-6);
  EXPECT_NEAR(model.values["b"][1], 1.016, 1e-6);
}

TEST(AdamW8bit, StaysNearFloat32For50Steps) {
  constexpr int64_t kSize = 60 * 1000 + 13;  // ends in a partial block
  test::RandomValues random(3);
  Model exact;
  exact.add("w", random.normal(kSize, 0, 1));
  Model coarse = exact;
  const auto adam = make_optimizer(OptimizerKind::kAdamW);
  const auto adam_8bit = make_optimizer(OptimizerKind::kAdamW8bit);
  double mean = 0;
  double relative = 0;
  for (int step = 0; step < 50; ++step) {
    exact.gradients["w"] = coarse.gradients["w"] = random.normal(kSize, 0, 0.01);
    adam->step(exact.views(), 1e-3);
    adam_8bit->step(coarse.views(), 1e-3);
    mean = relative = 0;
    for (size_t i = 0; i < kSize; ++i) {
      const double error = std::fabs(exact.values["w"][i] - coarse.values["w"][i]);
      mean += error / kSize;
      relative += error / (std::fabs(exact.values["w"][i]) + 1e-9) / kSize;
    }
    // Bitsandbytes makes both equal again after each step, since they drift apart.
    coarse.values["w"] = exact.values["w"];
  }
  EXPECT_LT(mean, 6e-5);
  EXPECT_GT(mean, 0);  // the two are different programs
  EXPECT_LT(relative, 6e-4);
  EXPECT_LT(adam_8bit->state_bytes(exact.views()), 0.26 * adam->state_bytes(exact.views()));
}

TEST(AdamW8bit, SmallTensorsStayFloat32) {
  Model exact;
  exact.add("small", test::RandomValues(4).normal(4095, 0, 1));
  Model coarse = exact;
  const auto adam = make_optimizer(OptimizerKind::kAdamW);
  const auto adam_8bit = make_optimizer(OptimizerKind::kAdamW8bit);
  for (int step = 0; step < 3; ++step) {
    exact.gradients["small"] = coarse.gradients["small"] = test::RandomValues(5).normal(4095, 0, 1);
    adam->step(exact.views(), 1e-3);
    adam_8bit->step(coarse.views(), 1e-3);
  }
  EXPECT_EQ(exact.values, coarse.values);
}

TEST(AdamW8bit, ATinySecondMomentDoesNotBlowUpAStep) {
  Model model;
  model.add("w", std::vector<float>(4096, 0));
  const auto optimizer = make_optimizer(OptimizerKind::kAdamW8bit);
  model.gradients["w"].assign(4096, 1e-4F);
  model.gradients["w"][0] = 1;  // its square is the block's maximum
  optimizer->step(model.views(), 1e-3);
  model.gradients["w"].assign(4096, 0);
  optimizer->step(model.views(), 1e-3);
  for (const float value : model.values["w"]) ASSERT_LT(std::fabs(value), 0.01F);
}

class OptimizerState : public ::testing::TestWithParam<OptimizerKind> {};

TEST_P(OptimizerState, LoadedStateGoesOnBitForBitWithAnyNumberOfThreads) {
  const int threads = num_threads();
  Model model;
  model.add("large", test::RandomValues(6).normal(70000, 0, 1));
  model.add("small", test::RandomValues(7).normal(10, 0, 1));
  const auto optimizer = make_optimizer(GetParam());
  const auto run = [&](Model& m, Optimizer& o, uint64_t seed) {
    test::RandomValues random(seed);
    for (auto& [name, gradient] : m.gradients) {
      gradient = random.normal(static_cast<int64_t>(gradient.size()), 0, 0.1);
    }
    clip_gradients(m.gradient_views(), 1);
    o.step(m.views(), 1e-2);
  };
  for (uint64_t seed = 0; seed < 4; ++seed) run(model, *optimizer, seed);

  Model resumed = model;
  const auto second = make_optimizer(GetParam());
  second->load(optimizer->save());
  EXPECT_EQ(second->num_steps(), 4);
  set_num_threads(threads == 1 ? 3 : 1);
  for (uint64_t seed = 10; seed < 14; ++seed) run(resumed, *second, seed);
  set_num_threads(threads);
  for (uint64_t seed = 10; seed < 14; ++seed) run(model, *optimizer, seed);
  EXPECT_EQ(model.values, resumed.values);
  const auto first_state = optimizer->save();
  const auto second_state = second->save();
  ASSERT_EQ(first_state.size(), second_state.size());
  for (size_t i = 0; i < first_state.size(); ++i) {
    EXPECT_EQ(first_state[i].name, second_state[i].name);
    EXPECT_EQ(first_state[i].bytes, second_state[i].bytes) << first_state[i].name;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, OptimizerState,
                         ::testing::Values(OptimizerKind::kAdamW, OptimizerKind::kAdamW8bit));

TEST(OptimizerErrors, ParametersMustBeThoseOfTheState) {
  Model model;
  model.add("w", {1, 2, 3});
  const auto optimizer = make_optimizer(OptimizerKind::kAdamW);
  optimizer->step(model.views(), 1e-3);
  Model other;
  other.add("v", {1});
  EXPECT_THAT(message_of([&] { optimizer->step(other.views(), 1e-3); }),
              HasSubstr("parameter v has 1 values, its state does not exist"));
  other.values.clear();
  other.add("w", {1, 2});
  EXPECT_THAT(message_of([&] { optimizer->step(other.views(), 1e-3); }),
              HasSubstr("parameter w has 2 values, its state holds 3"));
  EXPECT_THAT(message_of([&] { optimizer->step({}, 1e-3); }),
              HasSubstr("parameter w of the state is missing"));
  std::vector<ParameterView> twice = model.views();
  twice.push_back(twice[0]);
  EXPECT_THAT(message_of([&] { optimizer->step(twice, 1e-3); }), HasSubstr("w is given twice"));
  EXPECT_EQ(optimizer->num_steps(), 1);
}

TEST(OptimizerErrors, DamagedStateIsRefusedByName) {
  Model model;
  model.add("w", std::vector<float>(5000, 1));
  const auto optimizer = make_optimizer(OptimizerKind::kAdamW8bit);
  optimizer->step(model.views(), 1e-3);
  const std::vector<StateTensor> good = optimizer->save();
  const auto refused = [&](const std::function<void(std::vector<StateTensor>&)>& damage,
                           OptimizerKind kind = OptimizerKind::kAdamW8bit) {
    std::vector<StateTensor> state = good;
    damage(state);
    return message_of([&] { make_optimizer(kind)->load(state); });
  };
  EXPECT_EQ(refused([](auto&) {}), "no error");
  EXPECT_THAT(refused([](auto& s) { s.erase(s.begin()); }), HasSubstr("step is missing"));
  EXPECT_THAT(refused([](auto& s) { s.pop_back(); }), HasSubstr("w.exp_avg_sq.maxima is missing"));
  EXPECT_THAT(refused([](auto& s) { s[1].bytes.pop_back(); }), HasSubstr("4999 bytes"));
  EXPECT_THAT(refused([](auto& s) { s[1].name = "strange"; }),
              HasSubstr("strange belongs to no parameter"));
  EXPECT_THAT(refused([](auto& s) { s.push_back(s[1]); }), HasSubstr("w.exp_avg is there twice"));
  EXPECT_THAT(refused([](auto&) {}, OptimizerKind::kAdamW),
              HasSubstr("w was kept in 8 bits, this optimizer wants 32"));
}

TEST(ClipGradients, ScalesOnlyWhatIsTooLong) {
  std::vector<float> a = {3, 0};
  std::vector<float> b = {0, 4};
  const std::vector<GradientView> views = {{a.data(), 2}, {b.data(), 2}};
  EXPECT_DOUBLE_EQ(clip_gradients(views, 0), 5);
  EXPECT_DOUBLE_EQ(clip_gradients(views, 6), 5);
  EXPECT_EQ(a[0], 3);
  EXPECT_DOUBLE_EQ(clip_gradients(views, 1), 5);
  EXPECT_NEAR(a[0], 0.6, 1e-6);
  EXPECT_NEAR(b[1], 0.8, 1e-6);
  a[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(clip_gradients(views, 0.1)));
  EXPECT_NEAR(b[1], 0.8, 1e-6);
}

}  // namespace
}  // namespace quarry
