#include "generator/adapters/adapter_catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "generator/adapters/gguf_adapter.h"
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
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TrainableParameters, AreWrittenAsPeftPrintsThem) {
  const Json counts = read_json_file(kGolden + "peft/trainable_counts.json");
  EXPECT_EQ(trainable_parameters_text(896, 25632), counts["q_v"].get<std::string>());
  EXPECT_EQ(trainable_parameters_text(4884480, 139399488),
            counts["smollm2-135m r16 all-linear"].get<std::string>());
  EXPECT_EQ(trainable_parameters_text(294912, 125534208),
            "trainable params: 294,912 || all params: 125,534,208 || trainable%: 0.2349");
  EXPECT_EQ(trainable_parameters_text(0, 0),
            "trainable params: 0 || all params: 0 || trainable%: 0.0000");
}

TEST(AdapterCatalog, DescribesAPeftFolderAndItsGguf) {
  const test::TemporaryFolder folder;
  const fs::path patterns = kGolden + "peft/patterns/";
  AdapterInfo info = describe_adapter(patterns);
  EXPECT_EQ(info.name, "patterns");
  EXPECT_EQ(info.format, "PEFT");
  EXPECT_EQ(info.target_modules, R"(["o_proj","q_proj","up_proj"])");
  EXPECT_THAT(info.linear_names, ElementsAre("o_proj", "q_proj", "up_proj"));
  EXPECT_EQ(info.r, 4);
  EXPECT_EQ(info.lora_alpha, 8);
  EXPECT_EQ(info.scale, 2);
  EXPECT_TRUE(info.has_patterns);
  EXPECT_EQ(info.num_linears, 6);
  EXPECT_EQ(info.parameters, 1536);
  EXPECT_EQ(info.tensor_type, "F32");
  EXPECT_FALSE(info.notes.has_value());

  const auto base = test::open_model(kGolden + "models/llama");
  const fs::path gguf = folder.path() / "rs.gguf";
  adapter_to_gguf(kGolden + "peft/rslora", *base, gguf);
  info = describe_adapter(gguf);
  EXPECT_EQ(info.name, "rs");
  EXPECT_EQ(info.format, "GGUF");
  EXPECT_EQ(info.target_modules, "null");
  EXPECT_THAT(info.linear_names, ElementsAre("attn_k", "attn_q", "ffn_down"));
  EXPECT_EQ(info.r, 8);
  EXPECT_EQ(info.scale, 0.5);
  EXPECT_EQ(info.parameters, 3072);
  expect_error(ErrorCode::kNotFound, "absent: no such adapter",
               [&] { describe_adapter(folder.path() / "absent"); });
  expect_error(ErrorCode::kInvalidArgument, "is a model",
               [&] { describe_adapter(write_tiny_llama_gguf(folder.path(), 1)); });
}

TEST(AdapterCatalog, ListsWhatIsThereAndSaysWhyOneIsUnusable) {
  const test::TemporaryFolder folder;
  fs::copy(kGolden + "peft/q_v", folder.path() / "b");
  fs::create_directory(folder.path() / "a");
  test::write_file(folder.path() / "a" / "adapter_config.json", R"({"peft_type": "IA3"})");
  fs::create_directory(folder.path() / "no adapter");
  const std::vector<AdapterInfo> adapters = list_adapters(folder.path());
  ASSERT_EQ(adapters.size(), 2u);
  EXPECT_EQ(adapters[0].name, "a");
  EXPECT_EQ(adapters[0].format, "");
  EXPECT_THAT(adapters[0].warnings, ElementsAre(HasSubstr("peft_type is \"IA3\"")));
  EXPECT_EQ(adapters[1].name, "b");
  EXPECT_EQ(adapters[1].parameters, 896);
  EXPECT_TRUE(list_adapters(folder.path() / "absent").empty());
}

TEST(AdapterCatalog, NamesStandForInstalledAdapters) {
  const test::TemporaryFolder home;
  ::setenv("QUARRY_HOME", home.path().c_str(), 1);
  expect_error(ErrorCode::kNotFound, "(which holds none)", [&] { resolve_adapter("mine"); });
  fs::create_directories(adapters_folder());
  fs::copy(kGolden + "peft/q_v", adapters_folder() / "mine");
  EXPECT_EQ(resolve_adapter("mine"), adapters_folder() / "mine");
  EXPECT_EQ(resolve_adapter(kGolden + "peft/q_v"), kGolden + "peft/q_v");
  expect_error(ErrorCode::kNotFound, "adapter 'other': no such folder or file",
               [&] { resolve_adapter("other"); });
  expect_error(ErrorCode::kNotFound, "(which holds mine)", [&] { resolve_adapter("../mine"); });
}

TEST(AdapterCatalog, TheDefaultAdapterIsTheOneMadeForThisVeryModel) {
  const test::TemporaryFolder home;
  ::setenv("QUARRY_HOME", home.path().c_str(), 1);
  LoadedGenerator model;
  model.name = "tiny";
  model.content_hash = "abc";
  EXPECT_EQ(default_adapter(model), std::nullopt);
  const fs::path folder = adapters_folder() / "tiny-qa";
  fs::create_directories(adapters_folder());
  fs::copy(kGolden + "peft/q_v", folder);
  EXPECT_EQ(default_adapter(model), std::nullopt);  // says nothing about its base
  test::write_file(folder / "quarry_adapter.json", R"({"base_model": {"content_hash": "abc"}})");
  EXPECT_EQ(default_adapter(model), folder);
  model.content_hash = "abd";
  EXPECT_EQ(default_adapter(model), std::nullopt);
  model.name = "other";
  EXPECT_EQ(default_adapter(model), std::nullopt);
  test::write_file(folder / "quarry_adapter.json", "{");
  model.name = "tiny";
  expect_error(ErrorCode::kCorruptData, "quarry_adapter.json", [&] { default_adapter(model); });
}

TEST(AdapterFit, TellsWhetherTheBaseIsTheOneOfTheTraining) {
  const test::TemporaryFolder folder;
  const auto base = test::open_model(write_tiny_llama_gguf(folder.path(), 1));
  const fs::path adapter = folder.path() / "adapter";
  LoraSettings settings;
  settings.target_modules = {"q_proj"};
  test::save_random_adapter(settings, *base, {}, adapter);
  EXPECT_EQ(fit_adapter(describe_adapter(adapter), *base).base, AdapterFit::Base::kUnknown);
  AdapterNotes notes;
  notes.base_content_hash = model_content_hash(base->location());
  test::save_random_adapter(settings, *base, notes, adapter);
  EXPECT_EQ(fit_adapter(describe_adapter(adapter), *base).base, AdapterFit::Base::kMatches);
  notes.base_content_hash = "0";
  test::save_random_adapter(settings, *base, notes, adapter);
  const AdapterFit fit = fit_adapter(describe_adapter(adapter), *base);
  EXPECT_EQ(fit.base, AdapterFit::Base::kDiffers);
  EXPECT_EQ(fit.trainable_parameters, 2 * 8 * (64 + 64));
  EXPECT_EQ(fit.all_parameters, fit.trainable_parameters + base->num_parameters());
  const auto other = test::open_model(kGolden + "models/llama");
  expect_error(ErrorCode::kInvalidArgument, "has shape [8, 64], this model and rank want [8, 32]",
               [&] { fit_adapter(describe_adapter(adapter), *other); });
}

}  // namespace
}  // namespace quarry
