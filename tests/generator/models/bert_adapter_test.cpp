// Adapters of the BERT encoder against what Python PEFT computed: tests/golden/peft_encoder.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "data/core/error.h"
#include "data/core/json.h"
#include "data/core/parallel_for.h"
#include "generator/models/text_encoder.h"
#include "generator/nn/lora.h"
#include "generator/nn/lora_config.h"
#include "generator/nn/lora_save.h"
#include "generator/nn/lora_training.h"
#include "generator/weights/safetensors_file.h"
#include "tests/generator/models/model_test_util.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using testing_util::golden;

std::vector<float> floats(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.num_elements()));
  dequantize(view.type, view.data, values.data(), view.num_elements());
  return values;
}

// Within 1e-5 of the largest value that is wanted.
void expect_close(const std::vector<float>& found, const std::vector<float>& wanted,
                  const std::string& what) {
  ASSERT_EQ(found.size(), wanted.size()) << what;
  float largest = 0.0f;
  for (const float value : wanted) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_NEAR(found[i], wanted[i], 1e-5f * largest) << what << " " << i;
  }
}

class BertAdapter : public testing::TestWithParam<const char*> {
 protected:
  BertAdapter()
      : folder_(golden("../peft_encoder/") + GetParam()),
        golden_(SafetensorsFile::open(folder_ + "/golden.safetensors")),
        encoder_(load_text_encoder(golden("bert"), kernels::Precision::kExact)),
        texts_(read_json_file(golden("bert/golden.json"))
                   .at("texts")
                   .get<std::vector<std::string>>()) {}

  std::unique_ptr<LoraAdapter> load() const {
    return LoraAdapter::load(folder_, encoder_.model->linear_slots(), {});
  }

  std::string folder_;
  std::unique_ptr<SafetensorsFile> golden_;
  LoadedEncoder encoder_;
  std::vector<std::string> texts_;
};
INSTANTIATE_TEST_SUITE_P(Golden, BertAdapter, testing::Values("all_linear", "query_value"));

TEST_P(BertAdapter, VectorsEqualPeft) {
  const std::vector<float> wanted = floats(golden_->get("vectors"));
  expect_close(encoder_.model->encode_with(*load(), texts_), wanted, "vectors");
  const std::vector<float> base = encoder_.model->encode(texts_);
  double largest = 0.0;
  for (size_t i = 0; i < base.size(); ++i) {
    largest = std::max(largest, std::fabs(double{base[i]} - wanted[i]));
  }
  EXPECT_GT(largest, 0.01) << "the adapter changes nothing: the comparison says nothing";
}

TEST_P(BertAdapter, GradientsEqualPeft) {
  const auto adapter = load();
  LoraGradients gradients(*adapter);
  const std::vector<float> vector_gradients = floats(golden_->get("vector_gradients"));
  encoder_.model->accumulate_gradients(*adapter, texts_, vector_gradients.data(), gradients);
  for (const auto& [path, pair] : gradients.pairs()) {
    const std::string name = "base_model.model." + path;
    expect_close(pair.a, floats(golden_->get(name + ".lora_A.weight")), path + " A");
    expect_close(pair.b, floats(golden_->get(name + ".lora_B.weight")), path + " B");
  }
}

// More rows than one pass takes, and any number of threads.
TEST_P(BertAdapter, GradientsOfManyTextsAreTheirSum) {
  const auto adapter = load();
  std::vector<float> vector_gradients = floats(golden_->get("vector_gradients"));
  LoraGradients once(*adapter);
  encoder_.model->accumulate_gradients(*adapter, texts_, vector_gradients.data(), once);
  const int kRounds = 12;
  std::vector<std::string> many;
  std::vector<float> many_gradients;
  for (int round = 0; round < kRounds; ++round) {
    many.insert(many.end(), texts_.begin(), texts_.end());
    many_gradients.insert(many_gradients.end(), vector_gradients.begin(), vector_gradients.end());
  }
  LoraGradients together(*adapter);
  const int threads = num_threads();
  set_num_threads(1);
  encoder_.model->accumulate_gradients(*adapter, many, many_gradients.data(), together);
  set_num_threads(threads);
  for (auto& [path, pair] : once.pairs()) {
    for (float& value : pair.a) value *= kRounds;
    for (float& value : pair.b) value *= kRounds;
    expect_close(together.at(path).a, pair.a, path);
    expect_close(together.at(path).b, pair.b, path);
  }
}

TEST_P(BertAdapter, IsTheSameAfterItWasSaved) {
  const test::TemporaryFolder folder;
  const LoraConfig config = LoraConfig::load(folder_ + "/adapter_config.json");
  SaveAdapterOptions options;
  options.notes.base_content_hash = encoder_.content_hash;
  save_adapter(folder.path() / "saved", config, *load(), options);
  const auto again = LoraAdapter::load(folder.path() / "saved", encoder_.model->linear_slots(), {});
  EXPECT_EQ(encoder_.model->encode_with(*again, texts_),
            encoder_.model->encode_with(*load(), texts_));
  EXPECT_EQ(read_json_file(folder.path() / "saved/adapter_config.json").at("task_type"),
            "FEATURE_EXTRACTION");
}

TEST(BertAdapterOfAnotherModel, IsRefusedByName) {
  const LoadedEncoder encoder = load_text_encoder(golden("bert"), kernels::Precision::kExact);
  try {
    LoraAdapter::load(golden("llama") + "/lora_all", encoder.model->linear_slots(), {});
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(),
                testing::HasSubstr("which this model does not have; it has for "
                                   "instance 'encoder.layer.0.attention.self.query'"));
  }
}

}  // namespace
}  // namespace quarry
