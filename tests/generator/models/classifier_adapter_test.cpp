// Adapters of sequence classifiers against what Python PEFT computed: tests/golden/peft_classifier.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "generator/models/text_heads.h"
#include "generator/nn/lora.h"
#include "generator/nn/lora_config.h"
#include "generator/nn/lora_save.h"
#include "generator/nn/lora_training.h"
#include "generator/weights/safetensors_file.h"
#include "tests/generator/models/encoder_golden.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using testing_util::change_config;
using testing_util::copy_folder;
using testing_util::encoder_folder;
using testing_util::EncoderGolden;
using testing_util::error_of;
using testing_util::golden;

class ClassifierAdapter : public testing::TestWithParam<const char*> {
 protected:
  ClassifierAdapter()
      : folder_(golden("../peft_classifier/") + GetParam()),
        golden_(SafetensorsFile::open(folder_ + "/golden.safetensors")),
        loaded_(load_sequence_classifier(encoder_folder(GetParam()), kernels::Precision::kExact)),
        adapter_(LoraAdapter::load(folder_, model().linear_slots(), model().tensor_slots())) {
    for (const auto& texts : EncoderGolden(GetParam()).inputs) {
      texts_.push_back({texts.at(0), texts.at(1)});
    }
  }

  const SequenceClassifier& model() const { return *loaded_.model; }
  std::vector<float> floats(const std::string& name) const {
    const TensorView& view = golden_->get(name);
    std::vector<float> values(static_cast<size_t>(view.num_elements()));
    decode_tensor(view, values.data());
    return values;
  }
  // Within 1e-5 of the largest value that is wanted.
  void expect_close(const std::vector<float>& found, const std::string& name) const {
    const std::vector<float> wanted = floats(name);
    ASSERT_EQ(found.size(), wanted.size()) << name;
    float largest = 0.0f;
    for (const float value : wanted) largest = std::max(largest, std::fabs(value));
    EXPECT_GT(largest, 1e-4f) << name << ": nothing to compare";
    for (size_t i = 0; i < wanted.size(); ++i) {
      ASSERT_NEAR(found[i], wanted[i], 1e-5f * largest) << name << " " << i;
    }
  }

  std::string folder_;
  std::unique_ptr<SafetensorsFile> golden_;
  LoadedHead<SequenceClassifier> loaded_;
  std::unique_ptr<LoraAdapter> adapter_;
  std::vector<TextInput> texts_;
};
INSTANTIATE_TEST_SUITE_P(Golden, ClassifierAdapter,
                         testing::Values("bert_sequence", "roberta_sequence"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(ClassifierAdapter, LogitsEqualPeft) {
  expect_close(model().logits(model().encode(texts_), adapter_.get()), "logits");
  const std::vector<float> base = model().logits(texts_);
  const std::vector<float> wanted = floats("logits");
  double largest = 0.0;
  for (size_t i = 0; i < base.size(); ++i) {
    largest = std::max(largest, std::fabs(double{base[i]} - double{wanted[i]}));
  }
  EXPECT_GT(largest, 0.1) << "the adapter changes nothing: the comparison says nothing";
}

TEST_P(ClassifierAdapter, LossAndGradientsEqualPeft) {
  const size_t width = model().labels().size();
  std::vector<int64_t> labels(texts_.size());
  std::memcpy(labels.data(), golden_->get("labels").data, labels.size() * sizeof(int64_t));
  const auto count = static_cast<double>(texts_.size());
  double total = 0.0;
  LoraGradients gradients(*adapter_);
  model().accumulate_gradients(
      *adapter_, model().encode(texts_),
      [&](const float* logits, float* gradient) {
        for (const int64_t label : labels) {
          double sum = 0.0;
          for (size_t i = 0; i < width; ++i) sum += std::exp(double{logits[i]});
          total += std::log(sum) - double{logits[label]};
          for (size_t i = 0; i < width; ++i) {
            const double wanted = static_cast<int64_t>(i) == label ? 1.0 : 0.0;
            gradient[i] = static_cast<float>((std::exp(double{logits[i]}) / sum - wanted) / count);
          }
          logits += width;
          gradient += width;
        }
      },
      gradients);
  EXPECT_NEAR(total / count, double{floats("loss")[0]}, 1e-5);
  const LoraConfig config = LoraConfig::load(folder_ + "/adapter_config.json");
  size_t compared = 0;
  for (const auto& [path, pair] : gradients.pairs()) {
    expect_close(pair.a, "base_model.model." + path + ".lora_A.weight");
    expect_close(pair.b, "base_model.model." + path + ".lora_B.weight");
    compared += 2;
  }
  for (const auto& [name, gradient] : gradients.full()) {
    expect_close(gradient, config.stored_name(name));
    ++compared;
  }
  EXPECT_EQ(compared + 3, golden_->tensors().size());
}

TEST_P(ClassifierAdapter, IsTheSameAfterItWasSaved) {
  const test::TemporaryFolder folder;
  SaveAdapterOptions options;
  options.notes.labels = model().labels();
  save_adapter(folder.path() / "saved", LoraConfig::load(folder_ + "/adapter_config.json"),
               *adapter_, options);
  const auto again =
      LoraAdapter::load(folder.path() / "saved", model().linear_slots(), model().tensor_slots());
  const auto inputs = model().encode(texts_);
  EXPECT_EQ(model().logits(inputs, again.get()), model().logits(inputs, adapter_.get()));
  EXPECT_EQ(read_adapter_notes(folder.path() / "saved")->labels, model().labels());
}

// An encoder without a head gets one, which depends on the seed alone.
TEST(NewHead, IsMadeForAnEncoderWithoutOne) {
  const test::TemporaryFolder folder;
  const std::string bert = write_tiny_bert_folder(folder.path(), 4).string();
  NewHeadOptions options;
  options.labels = {"no", "yes"};
  const auto load = [&](const std::string& folder) {
    return load_sequence_classifier(folder, kernels::Precision::kExact, options);
  };
  const auto loaded = load(bert);
  EXPECT_TRUE(loaded.head_is_new);
  EXPECT_EQ(loaded.model->labels(), options.labels);
  const std::vector<float> weight = loaded.model->tensor_values("classifier.weight");
  EXPECT_EQ(weight.size(), 2u * 64u);
  EXPECT_EQ(loaded.model->tensor_values("classifier.bias"), std::vector<float>(2));
  EXPECT_EQ(load(bert).model->tensor_values("classifier.weight"), weight);
  options.seed = 2;
  EXPECT_NE(load(bert).model->tensor_values("classifier.weight"), weight);
  // Of RoBERTa both layers are the classifier's, and an existing head stays.
  const auto roberta = load(encoder_folder("roberta"));
  EXPECT_EQ(roberta.model->tensor_values("classifier.dense.weight").size(), 16u * 16u);
  EXPECT_EQ(roberta.model->linear_slots().size(), 12u);
  EXPECT_EQ(roberta.model->logits({{"the moon", std::nullopt}}).size(), 2u);
  EXPECT_FALSE(load(encoder_folder("bert_sequence")).head_is_new);
  EXPECT_THAT(error_of([&] { load_sequence_classifier(bert, kernels::Precision::kExact); }).what(),
              HasSubstr("model class 'BertModel' is no sequence classifier"));
  // A pooler drawn at random would be lost: adapters do not keep it.
  EXPECT_THAT(error_of([&] { load(golden("bert")); }).what(),
              HasSubstr("holds no tensor 'pooler.dense"));
}

}  // namespace
}  // namespace quarry
