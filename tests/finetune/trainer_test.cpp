#include "finetune/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "data/core/error.h"
#include "generator/nn/lora_config.h"
#include "generator/nn/lora_init.h"
#include "generator/nn/lora_training.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

std::string golden(const std::string& name) {
  return std::string(QUARRY_SOURCE_DIR) + "/tests/golden/" + name;
}

// Sequences of one length that share nothing but, in pairs, their first half.
std::vector<TrainingSequence> some_sequences(size_t count) {
  std::vector<TrainingSequence> sequences;
  uint32_t state = 5;
  for (size_t i = 0; i < count; ++i) {
    TrainingSequence sequence;
    sequence.id = "s" + std::to_string(i);
    for (size_t t = 0; t < 24; ++t) {
      state = state * 1664525u + 1013904223u;
      const bool shared = i % 2 == 1 && t < 12;
      sequence.tokens.push_back(shared ? sequences.back().tokens[t]
                                       : static_cast<int32_t>((state >> 8) % 288));
      sequence.is_target.push_back(t >= 20 - i % 3 ? 1 : 0);
    }
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() : loaded_(load_generator(golden("models/llama"), kernels::Precision::kExact)) {
    exact_.gradient.compute = GradientOptions::Compute::kFloat32;
  }
  std::unique_ptr<LoraAdapter> load(const std::string& name) const {
    return LoraAdapter::load(golden("peft/" + name), *loaded_.model);
  }
  std::unique_ptr<LoraAdapter> fresh() const {
    return create_adapter(config_, loaded_.model->linear_slots(), "true", 3);
  }
  std::string error_of(Trainer& trainer, const std::vector<TrainingSequence>& batch,
                       double learning_rate) const {
    try {
      trainer.step(batch, learning_rate);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  static LoraConfig all_linear() {
    LoraSettings settings;
    settings.target_all_linear = true;
    return LoraConfig::from_settings(settings);
  }

  LoadedGenerator loaded_;
  LoraConfig config_ = all_linear();
  TrainerOptions exact_;
};

// Largest difference between two adapters' matrices.
double difference(const LoraAdapter& a, const LoraAdapter& b) {
  double worst = 0.0;
  for (const auto& [path, weights] : a.weights()) {
    const LoraWeights& other = *b.find(path);
    for (size_t i = 0; i < weights.a.size(); ++i) {
      worst = std::max(worst, std::fabs(double{weights.a[i]} - other.a[i]));
    }
    for (size_t i = 0; i < weights.b.size(); ++i) {
      worst = std::max(worst, std::fabs(double{weights.b[i]} - other.b[i]));
    }
  }
  return worst;
}

// The batch of a golden of Python PEFT.
std::vector<TrainingSequence> peft_batch(const SafetensorsFile& file) {
  const auto* ids = reinterpret_cast<const int64_t*>(file.get("input_ids").data);
  const auto* labels = reinterpret_cast<const int64_t*>(file.get("labels").data);
  const std::vector<int64_t> shape = file.get("input_ids").shape;
  std::vector<TrainingSequence> batch;
  for (int64_t b = 0; b < shape[0]; ++b) {
    TrainingSequence sequence;
    sequence.id = std::to_string(b);
    for (int64_t t = 0; t < shape[1]; ++t) {
      sequence.tokens.push_back(static_cast<int32_t>(ids[b * shape[1] + t]));
      sequence.is_target.push_back(t > 0 && labels[b * shape[1] + t] >= 0 ? 1 : 0);
    }
    batch.push_back(std::move(sequence));
  }
  return batch;
}

std::unique_ptr<Optimizer> peft_optimizer() {
  AdamWOptions adamw;
  adamw.weight_decay = 0.01;
  return make_optimizer(OptimizerKind::kAdamW, adamw);
}

// Folder of golden/peft and its base model.
using PeftCase = std::pair<std::string, std::string>;

// Python PEFT and torch's AdamW, three steps on one batch.
TEST_F(TrainerTest, ThreeStepsEqualPython) {
  for (const auto& [name, base] :
       {PeftCase("q_v", "llama"), PeftCase("all_linear", "llama"), PeftCase("rslora", "llama"),
        PeftCase("patterns", "llama"), PeftCase("saved_head", "llama"),
        PeftCase("saved_embedding", "llama"), PeftCase("saved_mlp", "llama_scaled"),
        PeftCase("bias_all", "llama_scaled"), PeftCase("bias_lora_only", "llama_scaled")}) {
    const LoadedGenerator loaded =
        load_generator(golden("models/" + base), kernels::Precision::kExact);
    const auto file = SafetensorsFile::open(golden("peft/" + name + "/golden.safetensors"));
    const std::vector<TrainingSequence> batch = peft_batch(*file);
    const auto adapter = LoraAdapter::load(golden("peft/" + name), *loaded.model);
    const LoraConfig config = LoraConfig::load(golden("peft/" + name + "/adapter_config.json"));
    const auto optimizer = peft_optimizer();
    TrainerOptions options = exact_;
    options.max_grad_norm = 0.0;
    Trainer trainer(*loaded.model, config, *adapter, *optimizer, options);
    const auto* losses = reinterpret_cast<const float*>(file->get("losses").data);
    for (int step = 0; step < 3; ++step) {
      // Adam moves a value whose gradient is a rounding error by the whole learning rate, one way
      // or the other: a single such value of "all_linear" changes the next loss by 1.9e-5.
      const double limit = step == 0 ? 1e-5 : 3e-5;
      EXPECT_NEAR(trainer.step(batch, 1e-3).loss, losses[step], limit) << name << " " << step;
    }
    for (const ParameterView& parameter : trainer.parameters()) {
      const TensorView& wanted = file->get("step3." + parameter.name);
      const auto* values = reinterpret_cast<const float*>(wanted.data);
      // Adam divides by the gradient's own size: where that is rounding noise, so is the step.
      int64_t far = 0;
      for (int64_t i = 0; i < parameter.size; ++i) {
        far += std::fabs(parameter.value[i] - values[i]) > 2e-5 ? 1 : 0;
      }
      EXPECT_LE(far, parameter.size / 100) << name << " " << parameter.name;
    }
  }
}

// scale * B A.
std::vector<double> delta_of(const LoraWeights& pair) {
  const size_t rank = static_cast<size_t>(pair.rank);
  const size_t in = pair.a.size() / rank;
  const size_t out = pair.b.size() / rank;
  std::vector<double> delta(out * in);
  for (size_t o = 0; o < out; ++o) {
    for (size_t r = 0; r < rank; ++r) {
      const double b = double{pair.scale} * double{pair.b[o * rank + r]};
      for (size_t i = 0; i < in; ++i) delta[o * in + i] += b * double{pair.a[r * in + i]};
    }
  }
  return delta;
}

double largest_difference(const std::vector<double>& found, const TensorView& wanted) {
  const auto* values = reinterpret_cast<const float*>(wanted.data);
  if (found.size() != static_cast<size_t>(wanted.num_elements())) return 1e30;
  double worst = 0.0;
  for (size_t i = 0; i < found.size(); ++i) {
    worst = std::max(worst, std::fabs(found[i] - double{values[i]}));
  }
  return worst;
}

// As tests/golden/peft/make_peft.py.
LoraSettings pissa_settings(const std::string& name) {
  LoraSettings settings;
  settings.init_lora_weights = "pissa";
  settings.r = 4;
  settings.lora_alpha = 2;
  settings.target_all_linear = true;
  if (name == "pissa") return settings;
  settings.r = 3;
  settings.lora_alpha = 6;
  settings.use_rslora = true;
  settings.target_all_linear = false;
  settings.target_modules = {"q_proj", "up_proj", "down_proj"};
  return settings;
}

// Signs of singular vectors are arbitrary, so products are compared: where the pairs start, and the
// plain LoRA that PEFT makes of what three steps left.
TEST_F(TrainerTest, ThreeStepsFromPissaEqualPython) {
  for (const auto& [name, base] :
       {PeftCase("pissa", "llama"), PeftCase("pissa_rslora", "llama_scaled")}) {
    SCOPED_TRACE(name);
    const LoadedGenerator loaded =
        load_generator(golden("models/" + base), kernels::Precision::kExact);
    const auto file = SafetensorsFile::open(golden("peft/" + name + "/golden.safetensors"));
    LoraInitOptions init;
    init.init_lora_weights = "pissa";
    const LoraConfig config = LoraConfig::from_settings(pissa_settings(name));
    const auto adapter = create_adapter(config, *loaded.model, init);
    for (const auto& [path, pair] : adapter->weights()) {
      EXPECT_LT(largest_difference(delta_of(pair), file->get("start.base_model.model." + path)),
                2e-5)
          << path;
    }
    const auto optimizer = peft_optimizer();
    TrainerOptions options = exact_;
    options.max_grad_norm = 0.0;
    Trainer trainer(*loaded.model, config, *adapter, *optimizer, options);
    const auto* losses = reinterpret_cast<const float*>(file->get("losses").data);
    for (int step = 0; step < 3; ++step) {
      EXPECT_NEAR(trainer.step(peft_batch(*file), 1e-3).loss, losses[step], 1e-5) << step;
    }
    for (const auto& [path, pair] : adapter->weights()) {
      const std::vector<double> delta = delta_of(to_plain_lora(pair));
      EXPECT_LT(largest_difference(delta, file->get("delta.base_model.model." + path)), 2e-4)
          << path;
    }
  }
}

TEST_F(TrainerTest, SmallPassesEqualTheLargeBatchAndPackingChangesNothing) {
  const auto batch = some_sequences(6);
  std::vector<std::unique_ptr<LoraAdapter>> adapters;
  std::vector<StepResult> results;
  for (const auto& [rows, packing] :
       std::vector<std::pair<int64_t, bool>>{{1000, true}, {1000, false}, {1, true}, {60, true}}) {
    adapters.push_back(load("all_linear"));
    // Plain gradient descent by a large epsilon: Adam's first step is the gradient's sign.
    AdamWOptions adamw;
    adamw.epsilon = 1.0;
    const auto optimizer = make_optimizer(OptimizerKind::kAdamW, adamw);
    TrainerOptions options = exact_;
    options.micro_batch_tokens = rows;
    options.packing = packing;
    Trainer trainer(*loaded_.model, config_, *adapters.back(), *optimizer, options);
    results.push_back(trainer.step(batch, 1.0));
  }
  EXPECT_LT(results[0].rows, results[1].rows);
  EXPECT_EQ(results[0].targets, results[1].targets);
  EXPECT_GT(difference(*adapters[0], *load("all_linear")), 1e-3);
  for (size_t i = 1; i < adapters.size(); ++i) {
    EXPECT_NEAR(results[0].loss, results[i].loss, 1e-6);
    EXPECT_LE(difference(*adapters[0], *adapters[i]), 1e-6) << i;
  }
}

TEST_F(TrainerTest, LearnsItsBatchByHeart) {
  const auto batch = some_sequences(4);
  const auto adapter = fresh();
  const auto optimizer = make_optimizer(OptimizerKind::kAdamW);
  TrainerOptions options;
  options.lora_dropout = 0.05f;
  Trainer trainer(*loaded_.model, config_, *adapter, *optimizer, options);
  const double before = trainer.evaluate(batch);
  for (int i = 0; i < 120; ++i) trainer.step(batch, 0.02);
  EXPECT_LT(trainer.evaluate(batch), 0.1 * before);
  EXPECT_EQ(trainer.steps_taken(), 120);
}

TEST_F(TrainerTest, RefusesWhatCannotBeLearned) {
  const auto adapter = fresh();
  const auto optimizer = make_optimizer(OptimizerKind::kAdamW);
  Trainer trainer(*loaded_.model, config_, *adapter, *optimizer, exact_);
  auto batch = some_sequences(2);
  EXPECT_THAT(error_of(trainer, {}, 1e-3), HasSubstr("a batch without a sequence"));
  EXPECT_THAT(error_of(trainer, batch, 0.0), HasSubstr("the adapter is as it was before"));
  batch[1].is_target.assign(batch[1].is_target.size(), 0);
  EXPECT_THAT(error_of(trainer, batch, 1e-3),
              HasSubstr("sequence 's1': none of its tokens counts in the loss"));
}

TEST_F(TrainerTest, ALossThatIsNotFiniteNamesTheStepAndChangesNothing) {
  const auto adapter = load("all_linear");
  const auto optimizer = make_optimizer(OptimizerKind::kAdamW);
  Trainer trainer(*loaded_.model, config_, *adapter, *optimizer, exact_);
  const auto batch = some_sequences(2);
  trainer.step(batch, 1e-3);
  LoraWeights& weights = adapter->mutable_weights().begin()->second;
  const float before = weights.a[0];
  weights.a[0] = std::numeric_limits<float>::quiet_NaN();
  weights.pack();
  const std::vector<float> b = weights.b;
  EXPECT_THAT(error_of(trainer, batch, 1e-3),
              AllOf(HasSubstr("step 2: the loss is nan"), HasSubstr("as step 1 left it")));
  EXPECT_EQ(weights.b, b);
  EXPECT_EQ(trainer.steps_taken(), 1);
  weights.a[0] = before;
  weights.pack();
  EXPECT_EQ(trainer.step(batch, 1e-3).step, 2);
}

}  // namespace
}  // namespace quarry
