#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/error.h"
#include "data/core/json.h"
#include "data/core/paths.h"
#include "generator/models/text_encoder.h"
#include "tests/generator/models/model_test_util.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using testing_util::golden;

struct BertGolden {
  BertGolden() {
    const Json json = read_json_file(golden("bert/golden.json"));
    texts = json.at("texts").get<std::vector<std::string>>();
    vectors = json.at("vectors").get<std::vector<std::vector<float>>>();
  }
  std::vector<std::string> texts;
  std::vector<std::vector<float>> vectors;
};

double cosine(const float* a, const std::vector<float>& b) {
  double dot = 0.0, aa = 0.0, bb = 0.0;
  for (size_t i = 0; i < b.size(); ++i) {
    dot += static_cast<double>(a[i]) * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += static_cast<double>(b[i]) * b[i];
  }
  return dot / std::sqrt(aa * bb);
}

TEST(Bert, AModulesPathIsAPlainFolderName) {
  for (const std::string& name : {std::string("../other"), std::string("/etc"), std::string(".."),
                                  std::string(5000, 'x'), std::string("a\0b", 3)}) {
    const test::TemporaryFolder folder;
    const Json modules = {{{"type", "sentence_transformers.models.Pooling"}, {"path", name}}};
    write_file_atomically(folder.path() / "modules.json", dump_json(modules));
    write_file_atomically(folder.path() / "config.json", "{}");
    try {
      load_text_encoder(folder.path().string(), kernels::Precision::kFast);
      ADD_FAILURE() << "loaded " << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
      EXPECT_THAT(error.what(), HasSubstr("modules.json: module path '"));
    }
  }
}

TEST(Bert, ExactVectorsEqualSentenceTransformers) {
  const BertGolden expected;
  const LoadedEncoder loaded = load_text_encoder(golden("bert"), kernels::Precision::kExact);
  EXPECT_EQ(loaded.model->dim(), 32);
  EXPECT_EQ(loaded.model->max_tokens(), 16);
  const std::vector<float> vectors = loaded.model->encode(expected.texts);
  ASSERT_EQ(vectors.size(), expected.texts.size() * 32);
  for (size_t t = 0; t < expected.texts.size(); ++t) {
    for (size_t i = 0; i < 32; ++i) {
      EXPECT_NEAR(vectors[t * 32 + i], expected.vectors[t][i], 2e-5) << expected.texts[t];
    }
  }
}

TEST(Bert, FastVectorsPointTheSameWay) {
  const BertGolden expected;
  const LoadedEncoder loaded = load_text_encoder(golden("bert"), kernels::Precision::kFast);
  const std::vector<float> vectors = loaded.model->encode(expected.texts);
  for (size_t t = 0; t < expected.texts.size(); ++t) {
    EXPECT_GT(cosine(vectors.data() + t * 32, expected.vectors[t]), 0.999) << expected.texts[t];
  }
}

TEST(Bert, AVectorDoesNotDependOnTheOtherTexts) {
  const BertGolden expected;
  const LoadedEncoder loaded = load_text_encoder(golden("bert"), kernels::Precision::kFast);
  std::vector<std::string> texts;
  for (int round = 0; round < 12; ++round) {  // more rows than one batch takes
    texts.insert(texts.end(), expected.texts.begin(), expected.texts.end());
  }
  const std::vector<float> together = loaded.model->encode(texts);
  for (size_t t = 0; t < expected.texts.size(); ++t) {
    const std::vector<float> alone = loaded.model->encode({expected.texts[t]});
    for (size_t round = 0; round < 12; ++round) {
      const auto begin =
          together.begin() + static_cast<long>((round * expected.texts.size() + t) * 32);
      EXPECT_EQ(std::vector<float>(begin, begin + 32), alone);
    }
  }
  EXPECT_TRUE(loaded.model->encode({}).empty());
}

TEST(LoadTextEncoder, AGeneratorFolderIsRefusedByFamily) {
  try {
    load_text_encoder(golden("llama"), kernels::Precision::kFast);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(),
                HasSubstr("encoder family 'llama' is not supported (known: bert, roberta, "
                          "xlm-roberta, dpr)"));
  }
}

}  // namespace
}  // namespace quarry
