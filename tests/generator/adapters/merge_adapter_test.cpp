#include "generator/adapters/merge_adapter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "generator/adapters/merged_tensor.h"
#include "tests/generator/adapters/adapter_test_util.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::kGolden;
using test::largest_difference;
using test::logits_of;

// A 4-bit GGUF model and an adapter for it.
class MergeIntoQuantized : public ::testing::Test {
 protected:
  MergeIntoQuantized() {
    LoraSettings settings;
    settings.r = 4;
    settings.use_rslora = true;
    settings.target_modules = {"q_proj", "k_proj", "down_proj"};
    AdapterNotes notes;
    notes.base_name = "tiny-llama";
    notes.base_content_hash = model_content_hash(base_->location());
    test::save_random_adapter(settings, *base_, notes, adapter_);
  }

  test::TemporaryFolder folder_;
  fs::path gguf_ = write_tiny_llama_gguf(folder_.path(), 1);
  std::unique_ptr<ModelFile> base_ = test::open_model(gguf_);
  fs::path adapter_ = folder_.path() / "adapter";
};

TEST_F(MergeIntoQuantized, TheFolderAnswersAsBaseAndAdapterDid) {
  const fs::path out = folder_.path() / "merged";
  MergeOptions options;
  options.type = WeightType::kF32;
  EXPECT_EQ(merge_adapter(*base_, adapter_, out, options).merged_tensors, 6);
  const auto wanted = logits_of(gguf_, adapter_);
  EXPECT_LT(largest_difference(logits_of(out), wanted), 1e-4);
  EXPECT_GT(largest_difference(logits_of(gguf_), wanted), 0.01);
}

TEST_F(MergeIntoQuantized, TheFolderHasTokenizerTemplateAndConfiguration) {
  const fs::path out = folder_.path() / "merged";
  merge_adapter(*base_, adapter_, out, {WeightType::kBF16});
  const LoadedGenerator base = load_generator(gguf_.string(), kernels::Precision::kExact);
  const LoadedGenerator merged = load_generator(out.string(), kernels::Precision::kExact);
  const char* text = "<|im_start|>user\nHow many rivers? 17<|im_end|>\n";
  for (const auto special : {Tokenizer::SpecialTokens::kAdd, Tokenizer::SpecialTokens::kParse}) {
    EXPECT_EQ(merged.tokenizer->encode(text, special), base.tokenizer->encode(text, special));
  }
  EXPECT_EQ(merged.stop_tokens, base.stop_tokens);
  ASSERT_NE(merged.chat_template, nullptr);
  const std::vector<ChatMessage> chat = {{"user", "hello"}};
  EXPECT_EQ(merged.chat_template->render(chat, true), base.chat_template->render(chat, true));
  const Json config = read_json_file(out / "config.json");
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
  EXPECT_EQ(config["tie_word_embeddings"], true);
  EXPECT_EQ(config["rms_norm_eps"], 1e-5);
  const auto file = SafetensorsFile::open(out);
  for (const TensorView& tensor : file->tensors()) {
    EXPECT_EQ(tensor.type, WeightType::kBF16) << tensor.name;
  }
}

TEST_F(MergeIntoQuantized, TheGgufKeepsAllButTheMergedTensors) {
  const fs::path out = folder_.path() / "merged.gguf";
  MergeOptions options;
  options.type = WeightType::kF32;
  merge_adapter(*base_, adapter_, out, options);
  EXPECT_LT(largest_difference(logits_of(out), logits_of(gguf_, adapter_)), 1e-4);
  const auto merged = GgufFile::open(out);
  const GgufFile& base = *base_->gguf();
  EXPECT_EQ(merged->get_int("general.file_type"), 0);
  for (const std::string& key : base.keys()) {
    if (key == "general.file_type") continue;
    EXPECT_EQ(merged->get_raw(key), base.get_raw(key)) << key;
  }
  ASSERT_EQ(merged->tensors().size(), base.tensors().size());
  int64_t changed = 0;
  for (const TensorView& tensor : base.tensors()) {
    const TensorView& other = merged->get(tensor.name);
    if (other.type != tensor.type) {
      ++changed;
      EXPECT_EQ(other.type, WeightType::kF32);
      continue;
    }
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(other.data),
                               static_cast<size_t>(other.bytes)),
              std::string_view(reinterpret_cast<const char*>(tensor.data),
                               static_cast<size_t>(tensor.bytes)))
        << tensor.name;
  }
  EXPECT_EQ(changed, 6);
}

TEST_F(MergeIntoQuantized, HalfPrecisionIsNearAndTheDefault) {
  EXPECT_EQ(default_merge_type(*base_), WeightType::kF16);
  const fs::path out = folder_.path() / "merged.gguf";
  merge_adapter(*base_, adapter_, out, {default_merge_type(*base_)});
  EXPECT_LT(largest_difference(logits_of(out), logits_of(gguf_, adapter_)), 0.02);
  expect_error(ErrorCode::kInvalidArgument, "of the base is Q8_0; only a dense base",
               [&] { merge_adapter(*base_, adapter_, folder_.path() / "x", MergeOptions()); });
}

TEST_F(MergeIntoQuantized, CancelledLeavesNothing) {
  CancelFlag cancel;
  cancel.cancel();
  MergeOptions options;
  options.type = WeightType::kF16;
  options.cancel = &cancel;
  for (const char* name : {"cancelled", "cancelled.gguf"}) {
    const fs::path out = folder_.path() / name;
    expect_error(ErrorCode::kUnavailable, "merging: cancelled",
                 [&] { merge_adapter(*base_, adapter_, out, options); });
    EXPECT_FALSE(fs::exists(out));
  }
}

TEST_F(MergeIntoQuantized, WhatIsThereIsNotReplacedAndAnotherBaseIsRefused) {
  expect_error(ErrorCode::kInvalidArgument, "is there already",
               [&] { merge_adapter(*base_, adapter_, adapter_, {WeightType::kF32}); });
  fs::create_directory(folder_.path() / "other");
  const auto other = test::open_model(write_tiny_llama_gguf(folder_.path() / "other", 2));
  const fs::path out = folder_.path() / "out.gguf";
  MergeOptions options;
  options.type = WeightType::kF16;
  expect_error(ErrorCode::kInvalidArgument, "was trained on 'tiny-llama' (content hash",
               [&] { merge_adapter(*other, adapter_, out, options); });
  EXPECT_FALSE(fs::exists(out));
  options.check_base = false;
  merge_adapter(*other, adapter_, out, options);
  EXPECT_TRUE(fs::exists(out));
}

// A tied head becomes two tables where one of both is saved, in either kind of file.
TEST_F(MergeIntoQuantized, WholeParametersTakeTheBasesPlaceAndUntieTheHead) {
  const LoadedGenerator loaded = load_generator(gguf_.string(), kernels::Precision::kExact);
  for (const char* saved : {"lm_head", "embed_tokens", "k_proj"}) {
    SCOPED_TRACE(saved);
    LoraSettings settings;
    settings.target_modules = {"q_proj"};
    settings.modules_to_save = {saved, "norm"};
    test::save_moved_modules(settings, *loaded.model, adapter_);
    const std::vector<float> wanted = logits_of(gguf_, adapter_);
    EXPECT_GT(largest_difference(wanted, logits_of(gguf_)), 0.1);
    for (const std::string out : {"merged.gguf", "merged"}) {
      const fs::path path = folder_.path() / (saved + out);
      const MergeResult result = merge_adapter(*base_, adapter_, path, {WeightType::kF32});
      EXPECT_LT(largest_difference(logits_of(path), wanted), 1e-4) << out;
      EXPECT_GE(result.merged_tensors, 8);
    }
    const bool untied = std::string(saved) != "k_proj";
    const Json config_json =
        read_json_file(folder_.path() / (saved + std::string("merged")) / "config.json");
    EXPECT_EQ(config_json["tie_word_embeddings"], !untied);
    const auto gguf = GgufFile::open(folder_.path() / (saved + std::string("merged.gguf")));
    EXPECT_EQ(gguf->find("output.weight") != nullptr, untied);
    EXPECT_EQ(gguf->get("output_norm.weight").type, WeightType::kF32);
  }
}

TEST(MergeIntoDense, EachTensorKeepsItsTypeAndFilesAreCopied) {
  const test::TemporaryFolder folder;
  for (const char* model : {"llama", "llama_scaled"}) {
    SCOPED_TRACE(model);
    const fs::path path = fs::path(kGolden) / "models" / model;
    const auto base = test::open_model(path);
    const fs::path out = folder.path() / model;
    EXPECT_EQ(default_merge_type(*base), std::nullopt);
    merge_adapter(*base, path / "lora_all", out);
    const auto merged = SafetensorsFile::open(out);
    ASSERT_EQ(merged->tensors().size(), base->tensors().tensors().size());
    for (const TensorView& tensor : base->tensors().tensors()) {
      EXPECT_EQ(merged->get(tensor.name).type, tensor.type) << tensor.name;
    }
    EXPECT_TRUE(fs::exists(out / "tokenizer.json"));
    EXPECT_TRUE(fs::exists(out / "generation_config.json"));
    EXPECT_FALSE(fs::exists(out / "golden.safetensors"));
    // BF16 keeps 8 bits of each weight.
    const double tolerance = std::string(model) == "llama" ? 1e-4 : 0.5;
    EXPECT_LT(largest_difference(logits_of(out), logits_of(path, path / "lora_all")), tolerance);
    fs::remove_all(out);
    merge_adapter(*base, path / "lora_all", out, {WeightType::kF32});
    EXPECT_LT(largest_difference(logits_of(out), logits_of(path, path / "lora_all")), 1e-4);
    EXPECT_EQ(read_json_file(out / "config.json")["dtype"], "float32");
  }
  const auto base = test::open_model(kGolden + "models/llama");
  expect_error(ErrorCode::kInvalidArgument, "a GGUF is written from a GGUF base", [&] {
    merge_adapter(*base, kGolden + "models/llama/lora_qv", folder.path() / "x.gguf");
  });
}

TEST(MergedTensor, ValuesThatOverflowAreNamed) {
  const std::vector<float> base = {1, 60000, 3, 4};
  LoraWeights lora;
  lora.rank = 1;
  lora.a = {1, 6000};
  lora.b = {1, 2};
  TensorView view{"w", WeightType::kF32, {2, 2}, reinterpret_cast<const uint8_t*>(base.data()), 16};
  MergedTensor tensor;
  tensor.base = &view;
  tensor.lora = &lora;
  EXPECT_EQ(merged_bytes(tensor), test::encode(WeightType::kF32, {2, 66000, 5, 12004}));
  tensor.type = WeightType::kF16;
  expect_error(ErrorCode::kInvalidArgument, "tensor 'w': merged value 66000 is not finite as F16",
               [&] { merged_bytes(tensor); });
  tensor.type = WeightType::kBF16;
  EXPECT_EQ(merged_bytes(tensor), test::encode(WeightType::kBF16, {2, 66000, 5, 12004}));
  lora.a[0] = INFINITY;
  expect_error(ErrorCode::kInvalidArgument, "merged value inf is not finite as BF16",
               [&] { merged_bytes(tensor); });
}

TEST(MergedTensor, RowsGoWhereTheBaseKeepsThem) {
  const std::vector<float> base = {10, 20, 30};
  const std::vector<int64_t> rows = {2, 0, 1};
  LoraWeights lora;
  lora.rank = 1;
  lora.a = {1};
  lora.b = {1, 2, 3};
  TensorView view{"w", WeightType::kF32, {3, 1}, reinterpret_cast<const uint8_t*>(base.data()), 12};
  MergedTensor tensor;
  tensor.base = &view;
  tensor.lora = &lora;
  tensor.stored_rows = &rows;
  EXPECT_EQ(merged_bytes(tensor), test::encode(WeightType::kF32, {12, 23, 31}));
  tensor.in_stored_order = false;
  EXPECT_EQ(merged_bytes(tensor), test::encode(WeightType::kF32, {31, 12, 23}));
}

TEST(MergeType, NamesAreThoseOfTheCommandLine) {
  EXPECT_EQ(parse_merge_type("f16"), WeightType::kF16);
  EXPECT_EQ(parse_merge_type("as-base"), std::nullopt);
  expect_error(ErrorCode::kInvalidArgument, "type \"q4\" of the merged model",
               [&] { parse_merge_type("q4"); });
}

}  // namespace
}  // namespace quarry
