// Encoders of the BERT family against what transformers and PEFT computed: tests/golden/encoders.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "data/core/error.h"
#include "generator/models/text_encoder.h"
#include "generator/nn/lora.h"
#include "generator/nn/lora_training.h"
#include "generator/weights/safetensors_file.h"
#include "tests/generator/models/encoder_golden.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using testing_util::encoder_folder;
using testing_util::EncoderGolden;

std::vector<std::string> texts_of(const EncoderGolden& golden) {
  std::vector<std::string> texts;
  for (const auto& input : golden.inputs) texts.push_back(input.at(0));
  return texts;
}

class Encoders : public testing::TestWithParam<const char*> {
 protected:
  Encoders() : golden_(GetParam()), texts_(texts_of(golden_)) {}
  LoadedEncoder load(kernels::Precision precision) const {
    return load_text_encoder(encoder_folder(GetParam()), precision);
  }

  EncoderGolden golden_;
  std::vector<std::string> texts_;
};
INSTANTIATE_TEST_SUITE_P(Golden, Encoders,
                         testing::Values("roberta", "xlm_roberta", "dpr_question", "dpr_context",
                                         "dpr_projected"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(Encoders, VectorsEqualTransformers) {
  const LoadedEncoder loaded = load(kernels::Precision::kExact);
  EXPECT_EQ(loaded.model->max_tokens(), 24);
  EXPECT_EQ(loaded.model->unit_length(), std::string(GetParam()).rfind("dpr", 0) != 0);
  const auto wanted = golden_.json.at("vectors").get<std::vector<std::vector<float>>>();
  const auto dim = static_cast<size_t>(loaded.model->dim());
  ASSERT_EQ(dim, wanted.at(0).size());
  const std::vector<float> vectors = loaded.model->encode(texts_);
  for (size_t t = 0; t < texts_.size(); ++t) {
    for (size_t i = 0; i < dim; ++i) {
      EXPECT_NEAR(vectors[t * dim + i], wanted[t][i], 2e-5) << texts_[t] << " " << i;
    }
  }
}

// Of a fast precision: a vector does not depend on the other texts and is near the golden one.
void expect_near_golden(const LoadedEncoder& loaded, const std::vector<std::string>& texts,
                        const std::vector<std::vector<float>>& wanted) {
  const auto dim = static_cast<size_t>(loaded.model->dim());
  const std::vector<float> vectors = loaded.model->encode(texts);
  for (size_t t = 0; t < texts.size(); ++t) {
    const std::vector<float> vector(vectors.begin() + static_cast<long>(t * dim),
                                    vectors.begin() + static_cast<long>((t + 1) * dim));
    EXPECT_EQ(vector, loaded.model->encode({texts[t]}));
    double apart = 0.0;
    double length = 0.0;
    for (size_t i = 0; i < dim; ++i) {
      apart += std::pow(double{vector[i]} - wanted[t][i], 2);
      length += std::pow(double{wanted[t][i]}, 2);
    }
    EXPECT_LT(std::sqrt(apart / length), 0.05) << texts[t];
  }
}

TEST_P(Encoders, FastVectorsAreNearAndDoNotDependOnTheOtherTexts) {
  const auto wanted = golden_.json.at("vectors").get<std::vector<std::vector<float>>>();
  for (const auto precision : {kernels::Precision::kFast, kernels::Precision::kFast8}) {
    expect_near_golden(load(precision), texts_, wanted);
  }
}

TEST_P(Encoders, TokensEqualTransformers) {
  const LoadedEncoder loaded = load(kernels::Precision::kExact);
  for (size_t t = 0; t < texts_.size(); ++t) {
    std::vector<int32_t> ids =
        loaded.model->tokenizer().encode(texts_[t], Tokenizer::SpecialTokens::kAdd);
    if (ids.size() > 24) {
      ids[23] = ids.back();
      ids.resize(24);
    }
    EXPECT_EQ(ids, golden_.ids[t]) << texts_[t];
  }
}

std::vector<float> floats(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.num_elements()));
  dequantize(view.type, view.data, values.data(), view.num_elements());
  return values;
}

// Within 2e-5 of the largest value that is wanted.
void expect_close(const std::vector<float>& found, const std::vector<float>& wanted,
                  const std::string& what) {
  ASSERT_EQ(found.size(), wanted.size()) << what;
  float largest = 0.0f;
  for (const float value : wanted) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_NEAR(found[i], wanted[i], 2e-5f * largest) << what << " " << i;
  }
}

class EncoderAdapters : public Encoders {};
INSTANTIATE_TEST_SUITE_P(Golden, EncoderAdapters, testing::Values("roberta", "dpr_projected"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(EncoderAdapters, VectorsAndGradientsEqualPeft) {
  const std::string folder = encoder_folder(GetParam());
  const auto golden = SafetensorsFile::open(folder + "/lora.safetensors");
  const LoadedEncoder loaded = load(kernels::Precision::kExact);
  const auto adapter = LoraAdapter::load(folder + "/lora", loaded.model->linear_slots(), {});
  expect_close(loaded.model->encode_with(*adapter, texts_), floats(golden->get("vectors")),
               "vectors");
  LoraGradients gradients(*adapter);
  loaded.model->accumulate_gradients(*adapter, texts_,
                                     floats(golden->get("vector_gradients")).data(), gradients);
  size_t compared = 0;
  for (const auto& [path, pair] : gradients.pairs()) {
    const std::string name = "base_model.model." + path;
    expect_close(pair.a, floats(golden->get(name + ".lora_A.weight")), path + " A");
    expect_close(pair.b, floats(golden->get(name + ".lora_B.weight")), path + " B");
    compared += 2;
  }
  EXPECT_EQ(compared + 2, golden->tensors().size());
}

TEST(RobertaConfig, PositionsThatLeaveNoTokenAreNamed) {
  const test::TemporaryFolder folder;
  testing_util::copy_folder(encoder_folder("roberta"), folder.path() / "broken");
  testing_util::change_config(folder.path() / "broken", {{"max_position_embeddings", 2}});
  const Error error = testing_util::error_of(
      [&] { load_text_encoder((folder.path() / "broken").string(), kernels::Precision::kExact); });
  EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
  EXPECT_THAT(error.what(), HasSubstr("max_position_embeddings is 2, of which the first 2 stand "
                                      "before a text's first token"));
}

TEST(DprConfig, AFolderOfNeitherEncoderIsRefused) {
  const test::TemporaryFolder folder;
  testing_util::copy_folder(encoder_folder("bert_rerank"), folder.path() / "reader");
  testing_util::change_config(folder.path() / "reader", {{"model_type", "dpr"}});
  const Error error = testing_util::error_of(
      [&] { load_text_encoder((folder.path() / "reader").string(), kernels::Precision::kExact); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(error.what(),
              HasSubstr("holds neither question_encoder.bert_model nor ctx_encoder.bert_model"));
}

}  // namespace
}  // namespace quarry
