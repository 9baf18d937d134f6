// Against what Python PEFT computed: tests/golden/peft.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "generator/adapters/adapter_catalog.h"
#include "generator/adapters/merge_adapter.h"
#include "tests/generator/adapters/adapter_test_util.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using test::kGolden;

const fs::path kBase = fs::path(kGolden) / "models" / "llama";

std::vector<float> floats(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.num_elements()));
  dequantize(view.type, view.data, values.data(), view.num_elements());
  return values;
}

// The golden's sequences, one after the other.
std::vector<float> logits_of_golden(const SafetensorsFile& golden, const CausalLm& model,
                                    const LoraAdapter* adapter) {
  const TensorView& ids = golden.get("input_ids");
  const std::vector<float> values = floats(ids);
  std::vector<float> logits;
  for (int64_t row = 0; row < ids.shape[0]; ++row) {
    const auto begin = values.begin() + row * ids.shape[1];
    const std::vector<int32_t> tokens(begin, begin + ids.shape[1]);
    const std::vector<float> part = testing_util::all_logits(model, tokens, adapter);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

// Within 1e-5 of the largest value. PEFT's own float32 results are up to 9e-6 from what it computes
// in float64, with logits of up to 6.
void expect_close(const std::vector<float>& found, const std::vector<float>& wanted) {
  float largest = 0;
  for (const float value : wanted) largest = std::max(largest, std::fabs(value));
  EXPECT_LT(test::largest_difference(found, wanted), 1e-5 * largest);
}

class PeftParity : public ::testing::TestWithParam<test::PeftAdapter> {
 protected:
  fs::path folder_ = fs::path(kGolden) / "peft" / GetParam().name;
  fs::path base_ = fs::path(kGolden) / "models" / GetParam().base;
  std::unique_ptr<SafetensorsFile> golden_ = SafetensorsFile::open(folder_ / "golden.safetensors");
};

TEST_P(PeftParity, LogitsBesideTheBase) {
  const LoadedGenerator base = load_generator(base_.string(), kernels::Precision::kExact);
  const auto adapter = LoraAdapter::load(folder_, *base.model);
  const auto logits = logits_of_golden(*golden_, *base.model, adapter.get());
  // What PEFT converted from PiSSA is the end of the training.
  const char* wanted = golden_->find("trained_logits") != nullptr ? "trained_logits" : "logits";
  expect_close(logits, floats(golden_->get(wanted)));
  // The adapter is worth testing: the base alone is far away.
  const auto base_logits = logits_of_golden(*golden_, *base.model, nullptr);
  EXPECT_GT(test::largest_difference(base_logits, floats(golden_->get(wanted))), 0.02);
}

TEST_P(PeftParity, LogitsOfTheMergedModel) {
  const test::TemporaryFolder folder;
  const fs::path merged = folder.path() / "merged";
  MergeOptions options;
  options.type = WeightType::kF32;
  merge_adapter(*test::open_model(base_), folder_, merged, options);
  const LoadedGenerator model = load_generator(merged.string(), kernels::Precision::kExact);
  const auto logits = logits_of_golden(*golden_, *model.model, nullptr);
  expect_close(logits, floats(golden_->get("merged_logits")));
}

TEST_P(PeftParity, TrainableCounts) {
  if (golden_->find("trained_logits") != nullptr) {
    GTEST_SKIP() << "the converted adapter has twice the rank that was trained";
  }
  const Json counts = read_json_file(fs::path(kGolden) / "peft" / "trainable_counts.json");
  const AdapterFit fit = fit_adapter(describe_adapter(folder_), *test::open_model(base_));
  EXPECT_EQ(trainable_parameters_text(fit.trainable_parameters, fit.all_parameters),
            counts[GetParam().name].get<std::string>());
}

INSTANTIATE_TEST_SUITE_P(Golden, PeftParity, ::testing::ValuesIn(test::kPeftAdapters));
INSTANTIATE_TEST_SUITE_P(Full, PeftParity, ::testing::ValuesIn(test::kPeftFullAdapters));
INSTANTIATE_TEST_SUITE_P(Pissa, PeftParity, ::testing::ValuesIn(test::kPeftPissaAdapters));

// A copy of the golden q_v adapter with one thing wrong in it.
class MutatedAdapter : public ::testing::Test {
 protected:
  MutatedAdapter() {
    const fs::path original = fs::path(kGolden) / "peft" / "q_v";
    config_ = read_json_file(original / "adapter_config.json");
    const auto file = SafetensorsFile::open(original / "adapter_model.safetensors");
    for (const TensorView& view : file->tensors()) {
      values_[view.name] = floats(view);
      tensors_[view.name] = {view.name, view.type, view.shape, nullptr};
    }
  }

  void write() {
    test::write_file(folder_.path() / "adapter_config.json", dump_json(config_));
    std::vector<TensorToWrite> list;
    for (auto& [name, tensor] : tensors_) {
      tensor.data = values_[name].data();
      list.push_back(tensor);
    }
    write_safetensors(folder_.path() / "adapter_model.safetensors", list, {{"format", "pt"}});
  }

  std::unique_ptr<LoraAdapter> load() {
    const auto base = test::open_model(kBase);
    return LoraAdapter::load(folder_.path(), base->slots(), base->tensor_slots());
  }

  void expect_config_refused(const std::string& key, const Json& value, const std::string& part,
                             ErrorCode code = ErrorCode::kInvalidArgument) {
    SCOPED_TRACE(key);
    const Json original = config_;
    config_[key] = value;
    write();
    test::expect_error(code, part, [&] { load(); });
    config_ = original;
  }

  void rename(const std::string& from, const std::string& to) {
    auto node = tensors_.extract(from);
    node.key() = node.mapped().name = to;
    tensors_.insert(std::move(node));
    values_[to] = values_[from];
  }

  const std::string q_ = "base_model.model.model.layers.0.self_attn.q_proj";
  test::TemporaryFolder folder_;
  Json config_;
  std::map<std::string, TensorToWrite> tensors_;
  std::map<std::string, std::vector<float>> values_;
};

TEST_F(MutatedAdapter, TheOriginalLoads) {
  write();
  EXPECT_THAT(load()->warnings(), ::testing::IsEmpty());
}

TEST(PeftAlora, IsNotMerged) {
  const test::TemporaryFolder folder;
  test::expect_error(ErrorCode::kInvalidArgument, "alora_invocation_tokens is [7,9,7]", [&] {
    merge_adapter(*test::open_model(kBase), fs::path(kGolden) / "peft" / "alora",
                  folder.path() / "merged");
  });
}

TEST_F(MutatedAdapter, KeysThatCannotBeHonouredAreNamed) {
  expect_config_refused("use_dora", true, "use_dora is true");
  expect_config_refused("layer_replication", Json::array({Json::array({0, 2})}),
                        "layer_replication is [[0,2]]");
  expect_config_refused("target_parameters", Json::array({"mlp.experts"}),
                        "target_parameters is [\"mlp.experts\"]");
  expect_config_refused("alora_invocation_tokens", Json::array({1, 2}),
                        "alora_invocation_tokens is [1,2]");
  expect_config_refused("alora_invocation_tokens", Json::array({-1}),
                        "alora_invocation_tokens is [-1], wanted a list of token ids",
                        ErrorCode::kCorruptData);
  expect_config_refused("lora_bias", true, "lora_bias is true");
  expect_config_refused("peft_type", "IA3", "peft_type is \"IA3\"");
  expect_config_refused("task_type", "CHAT", "task_type is \"CHAT\"");
  expect_config_refused("r", 0, "rank 0 is not a whole number", ErrorCode::kCorruptData);
  expect_config_refused("bias", "some", "bias is \"some\"");
  expect_config_refused("modules_to_save", "lm_head", "modules_to_save is \"lm_head\"",
                        ErrorCode::kCorruptData);
  expect_config_refused("modules_to_save", Json::array({"lm_head"}),
                        "lm_head.weight', which modules_to_save names", ErrorCode::kCorruptData);
  expect_config_refused("modules_to_save", Json::array({"proj"}),
                        "which target_modules [\"q_proj\",\"v_proj\"] adapts as well");
  expect_config_refused("target_modules", Json::array({"c_attn"}),
                        "which target_modules [\"c_attn\"] leaves out", ErrorCode::kCorruptData);
}

TEST_F(MutatedAdapter, TensorsThatAreWrongAreNamed) {
  const auto original_tensors = tensors_;
  const auto original_values = values_;
  const auto expect_refused = [&](ErrorCode code, const std::string& part) {
    write();
    test::expect_error(code, part, [&] { load(); });
    tensors_ = original_tensors;
    values_ = original_values;
  };
  tensors_.erase(q_ + ".lora_B.weight");
  expect_refused(ErrorCode::kCorruptData, "q_proj.lora_B.weight', only its lora_A");
  tensors_.erase(q_ + ".lora_A.weight");
  expect_refused(ErrorCode::kCorruptData, "q_proj.lora_A.weight', only its lora_B");
  tensors_.at(q_ + ".lora_A.weight").shape = {32, 4};
  expect_refused(ErrorCode::kInvalidArgument, "q_proj.lora_A.weight' has shape [32, 4]");
  rename(q_ + ".lora_A.weight", "model.layers.0.self_attn.q_proj.lora_A.weight");
  expect_refused(ErrorCode::kCorruptData, "q_proj.lora_A.weight', only its lora_B");
  values_.at(q_ + ".lora_A.weight")[7] = std::numeric_limits<float>::quiet_NaN();
  expect_refused(ErrorCode::kCorruptData, "q_proj.lora_A.weight' holds a value that is not finite");
}

TEST_F(MutatedAdapter, WholeParametersThatAreWrongAreNamed) {
  config_["modules_to_save"] = Json::array({"model.norm"});
  const std::string norm = "base_model.model.model.norm.weight";
  values_[norm].assign(32, 1.0f);
  tensors_[norm] = {norm, WeightType::kF32, {32}, nullptr};
  write();
  EXPECT_EQ(load()->full().size(), 1u);
  tensors_[norm].shape = {2, 16};
  write();
  test::expect_error(ErrorCode::kInvalidArgument, "norm.weight' has shape [2, 16]",
                     [&] { load(); });
  tensors_[norm].shape = {32};
  values_[norm][3] = std::numeric_limits<float>::infinity();
  write();
  test::expect_error(ErrorCode::kCorruptData, "norm.weight' holds a value that is not finite",
                     [&] { load(); });
  values_[norm][3] = 1.0f;
  config_["modules_to_save"] = nullptr;
  write();
  test::expect_error(ErrorCode::kInvalidArgument, "norm.weight' is neither", [&] { load(); });
}

TEST_F(MutatedAdapter, APickleIsNotRead) {
  write();
  fs::rename(folder_.path() / "adapter_model.safetensors", folder_.path() / "adapter_model.bin");
  test::expect_error(ErrorCode::kInvalidArgument, "adapter_model.bin, a Python pickle",
                     [&] { load(); });
}

TEST_F(MutatedAdapter, AKeyOfANewerPeftIsAWarning) {
  config_["key_of_2030"] = 7;
  write();
  EXPECT_THAT(load()->warnings(),
              ::testing::ElementsAre(::testing::HasSubstr("unknown key \"key_of_2030\"")));
}

}  // namespace
}  // namespace quarry
