#include "generator/adapters/quantize_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "generator/decode/compare_models.h"
#include "generator/quant/four_bit.h"
#include "generator/weights/gguf_file.h"
#include "tests/generator/adapters/adapter_test_util.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

const fs::path kFolder = QUARRY_SOURCE_DIR "/tests/golden/models/llama";  // float32

std::vector<float> logits(const LoadedGenerator& loaded) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back((i * i * 7 + 3) % 280);
  const auto cache = loaded.model->make_cache();
  SequenceChunk chunk;
  chunk.tokens = tokens.data();
  chunk.num_tokens = static_cast<int64_t>(tokens.size());
  chunk.cache = cache.get();
  chunk.all_logits = true;
  return loaded.model->forward({chunk});
}

std::vector<float> logits(const fs::path& model, kernels::Precision precision,
                          LoadIn load_in = LoadIn::kAsIs, float llm_int8_threshold = 0.0f) {
  GeneratorOptions options;
  options.precision = precision;
  options.weights.load_in = load_in;
  options.weights.llm_int8_threshold = llm_int8_threshold;
  return logits(load_generator(model.string(), options));
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / size);
}

class QuantizeModel : public ::testing::Test {
 protected:
  fs::path write(const fs::path& source, WeightType type, const std::string& name) {
    QuantizeModelOptions options;
    options.type = type;
    result_ = quantize_model(*test::open_model(source), folder_.path() / name, options);
    return folder_.path() / name;
  }
  test::TemporaryFolder folder_;
  QuantizeModelResult result_;
};

TEST_F(QuantizeModel, CancelledLeavesNothing) {
  CancelFlag cancel;
  cancel.cancel();
  QuantizeModelOptions options;
  options.cancel = &cancel;
  const fs::path out = folder_.path() / "out";
  EXPECT_THROW(quantize_model(*test::open_model(kFolder), out, options), Error);
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(QuantizeModel, AWrittenFolderAnswersAsTheWeightsQuantizedAtLoad) {
  const std::pair<WeightType, LoadIn> types[] = {{WeightType::kNF4, LoadIn::kNF4},
                                                 {WeightType::kFP4, LoadIn::kFP4},
                                                 {WeightType::kInt8Rows, LoadIn::kInt8}};
  const std::vector<float> dense = logits(kFolder, kernels::Precision::kExact);
  for (const auto& [type, load_in] : types) {
    const std::string name = load_in_name(load_in);
    const fs::path out = write(kFolder, type, name);
    EXPECT_EQ(result_.quantized_tensors, 14) << name;
    EXPECT_LT(result_.bytes, result_.source_bytes) << name;
    for (const auto precision : {kernels::Precision::kExact, kernels::Precision::kFast}) {
      EXPECT_EQ(logits(out, precision), logits(kFolder, precision, load_in)) << name;
    }
    const double loss = distance(logits(out, kernels::Precision::kExact), dense);
    EXPECT_GT(loss, 1e-4) << name;
    EXPECT_LT(loss, type == WeightType::kInt8Rows ? 0.05 : 0.5) << name;
    EXPECT_LT(
        distance(logits(out, kernels::Precision::kFast), logits(out, kernels::Precision::kExact)),
        0.02)
        << name;
  }
}

// A folder whose weights are what the quantized ones stand for.
TEST_F(QuantizeModel, ExactLogitsAreThoseOfTheDecodedWeights) {
  const auto quantized = test::open_model(write(kFolder, WeightType::kNF4, "nf4"));
  std::vector<TensorToWrite> list;
  for (const TensorView& view : quantized->tensors().tensors()) {
    TensorToWrite tensor = {view.name, WeightType::kF32, view.shape};
    tensor.make_data = [&view] {
      std::string bytes(static_cast<size_t>(4 * view.num_elements()), '\0');
      decode_tensor(view, reinterpret_cast<float*>(bytes.data()));
      return bytes;
    };
    list.push_back(std::move(tensor));
  }
  const fs::path decoded = folder_.path() / "decoded";
  fs::copy(kFolder, decoded);
  write_safetensors(decoded / "model.safetensors", list, {{"format", "pt"}});
  EXPECT_EQ(logits(folder_.path() / "nf4", kernels::Precision::kExact),
            logits(decoded, kernels::Precision::kExact));
}

TEST_F(QuantizeModel, TheFolderSaysThatItIsQuantized) {
  const fs::path out = write(kFolder, WeightType::kNF4, "nf4");
  const Json quantization = read_json_file(out / "config.json")["quantization_config"];
  EXPECT_EQ(quantization["quant_method"], "bitsandbytes");
  EXPECT_EQ(quantization["bnb_4bit_quant_type"], "nf4");
  EXPECT_EQ(quantization["load_in_4bit"], true);
  EXPECT_EQ(quantization["bnb_4bit_use_double_quant"], true);
  std::map<std::string, int64_t> types;
  for (const auto& [name, count] : describe_model(resolve_model(out.string())).tensor_types) {
    types[name] = count;
  }
  EXPECT_EQ(types["NF4"], 14);
}

TEST_F(QuantizeModel, AGgufBaseGivesAFolderInHuggingFaceOrder) {
  const fs::path gguf = write_tiny_llama_gguf(folder_.path(), 1);
  const fs::path out = write(gguf, WeightType::kNF4, "nf4");
  EXPECT_EQ(result_.quantized_tensors, 14);
  // The embedding went from Q8_0 to float16.
  EXPECT_LT(distance(logits(out, kernels::Precision::kExact),
                     logits(gguf, kernels::Precision::kExact, LoadIn::kNF4)),
            2e-3);
}

TEST_F(QuantizeModel, BlocksAreWrittenToAGgufThatKeepsItsMetadata) {
  const fs::path gguf = write_tiny_llama_gguf(folder_.path(), 1);
  const auto base = GgufFile::open(gguf);
  for (const auto& [name, type] : std::map<std::string, WeightType>{
           {"q8_0", WeightType::kQ8_0}, {"q4_0", WeightType::kQ4_0}, {"q5_1", WeightType::kQ5_1}}) {
    const fs::path out = write(gguf, type, name + ".gguf");
    const auto file = GgufFile::open(out);
    EXPECT_EQ(file->get("blk.0.attn_q.weight").type, type);
    EXPECT_EQ(file->get("token_embd.weight").type, WeightType::kQ8_0);
    EXPECT_EQ(file->get("output_norm.weight").type, WeightType::kF32);
    EXPECT_EQ(file->get_raw("tokenizer.ggml.tokens"), base->get_raw("tokenizer.ggml.tokens"));
    EXPECT_LT(
        distance(logits(out, kernels::Precision::kExact), logits(gguf, kernels::Precision::kExact)),
        type == WeightType::kQ8_0 ? 0.02 : 0.4)
        << name;
  }
}

TEST_F(QuantizeModel, WhatCannotBeIsRefused) {
  fs::create_directory(folder_.path() / "there");
  expect_error(ErrorCode::kInvalidArgument, "is there already",
               [&] { write(kFolder, WeightType::kNF4, "there"); });
  expect_error(ErrorCode::kInvalidArgument, "Q4_0 is written from a GGUF",
               [&] { write(kFolder, WeightType::kQ4_0, "x.gguf"); });
  expect_error(ErrorCode::kInvalidArgument, "NF4 is written to a folder",
               [&] { write(kFolder, WeightType::kNF4, "x.gguf"); });
  expect_error(ErrorCode::kInvalidArgument, "'q3_k', wanted nf4, fp4, int8, q8_0",
               [] { parse_quantized_type("q3_k"); });
}

TEST_F(QuantizeModel, TheProductOfLlmInt8IsNearThatOfTheKernels) {
  const std::vector<float> dense = logits(kFolder, kernels::Precision::kExact);
  const std::vector<float> kernels_product =
      logits(kFolder, kernels::Precision::kFast, LoadIn::kInt8);
  const std::vector<float> product =
      logits(kFolder, kernels::Precision::kFast, LoadIn::kInt8, 6.0f);
  EXPECT_NE(product, kernels_product);
  EXPECT_LT(distance(product, kernels_product), 0.05);
  EXPECT_LT(distance(product, dense), 0.05);
}

TEST_F(QuantizeModel, DenseTypesAtLoad) {
  const std::vector<float> exact = logits(kFolder, kernels::Precision::kExact);
  EXPECT_LT(distance(logits(kFolder, kernels::Precision::kFast, LoadIn::kF32), exact), 2e-3);
  EXPECT_LT(distance(logits(kFolder, kernels::Precision::kExact, LoadIn::kBF16), exact), 2e-2);
  expect_error(ErrorCode::kInvalidArgument, "cannot be loaded in 'q4', wanted as-is, nf4",
               [] { parse_load_in("q4"); });
}

TEST_F(QuantizeModel, ComparisonTellsTheLoss) {
  const LoadedGenerator dense = load_generator(kFolder.string(), kernels::Precision::kExact);
  std::string text;
  for (int i = 0; i < 60; ++i) text += "The sea is " + std::to_string(i) + " fathoms deep. ";
  CompareOptions options;
  options.window_tokens = 50;
  options.max_tokens = 170;
  const ModelComparison same = compare_models(dense, dense, text, options);
  EXPECT_EQ(same.tokens, 170 - 4);  // the first of each window is given
  EXPECT_EQ(same.perplexity, same.reference_perplexity);
  EXPECT_NEAR(same.mean_kl, 0.0, 1e-9);
  EXPECT_EQ(same.same_top_token, 1.0);
  GeneratorOptions nf4;
  nf4.weights.load_in = LoadIn::kNF4;
  const ModelComparison loss =
      compare_models(dense, load_generator(kFolder.string(), nf4), text, options);
  EXPECT_EQ(loss.reference_perplexity, same.perplexity);
  EXPECT_GT(loss.mean_kl, 1e-6);
  EXPECT_GE(loss.max_kl, loss.mean_kl);
  expect_error(ErrorCode::kInvalidArgument, "at least 2 are wanted",
               [&] { compare_models(dense, dense, "", options); });
}

}  // namespace
}  // namespace quarry
