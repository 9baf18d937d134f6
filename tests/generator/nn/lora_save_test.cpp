#include "generator/nn/lora_save.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>

#include "data/core/json.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/random_values.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using test::expect_error;
using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

namespace fs = std::filesystem;

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> file_names(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

// Every adapter folder that PEFT wrote for the goldens of this repository.
std::vector<fs::path> peft_folders() {
  std::vector<fs::path> folders;
  for (const char* part : {"models", "peft"}) {
    const fs::path root = fs::path(QUARRY_SOURCE_DIR "/tests/golden") / part;
    if (!fs::exists(root)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      if (entry.path().filename() == "adapter_config.json") {
        folders.push_back(entry.path().parent_path());
      }
    }
  }
  return folders;
}

TEST(LoraConfig, WhatPeftWroteIsWrittenAgainWithTheSameContent) {
  const test::TemporaryFolder folder;
  const auto folders = peft_folders();
  ASSERT_GE(folders.size(), 4u);
  for (const fs::path& original : folders) {
    SCOPED_TRACE(original.string());
    LoraConfig::load(original / "adapter_config.json").save(folder.path() / "adapter_config.json");
    EXPECT_EQ(read_json_file(folder.path() / "adapter_config.json"),
              read_json_file(original / "adapter_config.json"));
  }
}

TEST(LoraConfig, UnknownKeysAreKept) {
  const test::TemporaryFolder folder;
  const fs::path path = folder.path() / "adapter_config.json";
  test::write_file(path, R"({"zeta": [1, {"b": 2, "a": 1.5}], "peft_type": "LORA",
                            "target_modules": ["é"]})");
  LoraConfig::load(path).save(path);
  EXPECT_EQ(read_bytes(path), R"({
  "peft_type": "LORA",
  "target_modules": [
    "\u00e9"
  ],
  "zeta": [
    1,
    {
      "b": 2,
      "a": 1.5
    }
  ]
})");
}

TEST(LoraConfig, SettingsWriteTheKeysOfPeft) {
  const Json golden =
      read_json_file(QUARRY_SOURCE_DIR "/tests/golden/models/llama/lora_qv/adapter_config.json");
  LoraSettings settings;
  settings.r = 8;
  settings.lora_alpha = 4;
  settings.use_rslora = true;
  settings.target_modules = {"v_proj", "q_proj"};
  Json written = Json::parse(dump_json(LoraConfig::from_settings(settings).json()));
  EXPECT_THAT(written["target_modules"], ElementsAre("q_proj", "v_proj"));
  Json wanted = golden;
  wanted["target_modules"] = {"q_proj", "v_proj"};
  wanted["base_model_name_or_path"] = nullptr;  // the golden script empties it
  wanted["peft_version"] = written["peft_version"];
  EXPECT_EQ(written, wanted);
}

TEST(LoraConfig, SettingsAreWrittenAndUsed) {
  LoraSettings settings;
  settings.r = 4;
  settings.lora_alpha = 6.5;
  settings.lora_dropout = 0.05;
  settings.target_modules = {"q_proj", "v_proj"};
  settings.exclude_pattern = ".*\\.1\\..*";
  settings.rank_pattern = {{"v_proj", 2}};
  settings.alpha_pattern = {{"layers.0.self_attn.v_proj", 8}};
  settings.layers_to_transform = {0, 1};
  settings.layers_pattern = {"layers"};
  settings.modules_to_save = {"lm_head"};
  settings.bias = "lora_only";
  settings.init_lora_weights = "gaussian";
  settings.base_model_name_or_path = "tiny";
  const LoraConfig config = LoraConfig::from_settings(settings);
  EXPECT_TRUE(config.targets("model.layers.0.self_attn.q_proj", false));
  EXPECT_FALSE(config.targets("model.layers.1.self_attn.q_proj", false));
  EXPECT_FALSE(config.targets("model.layers.2.self_attn.q_proj", false));
  EXPECT_EQ(config.rank("model.layers.0.self_attn.v_proj"), 2);
  EXPECT_DOUBLE_EQ(config.scale("model.layers.0.self_attn.v_proj"), 4.0);
  EXPECT_DOUBLE_EQ(config.scale("model.layers.0.self_attn.q_proj"), 6.5 / 4);
  const Json json = Json::parse(dump_json(config.json()));
  const Json part = {{"r", 4},
                     {"lora_alpha", 6.5},
                     {"lora_dropout", 0.05},
                     {"exclude_modules", ".*\\.1\\..*"},
                     {"rank_pattern", {{"v_proj", 2}}},
                     {"alpha_pattern", {{"layers.0.self_attn.v_proj", 8}}},
                     {"layers_to_transform", {0, 1}},
                     {"layers_pattern", {"layers"}},
                     {"modules_to_save", {"lm_head"}},
                     {"bias", "lora_only"},
                     {"init_lora_weights", "gaussian"},
                     {"inference_mode", true},
                     {"base_model_name_or_path", "tiny"}};
  for (const auto& [key, value] : part.items()) EXPECT_EQ(json[key], value) << key;
}

TEST(LoraConfig, ModulesToSaveAreNotAdapted) {
  LoraSettings settings;
  settings.target_all_linear = true;
  settings.modules_to_save = {"mlp"};
  const LoraConfig config = LoraConfig::from_settings(settings);
  EXPECT_TRUE(config.targets("model.layers.0.self_attn.q_proj", false));
  EXPECT_FALSE(config.targets("model.layers.0.mlp.up_proj", false));
  EXPECT_FALSE(config.targets("lm_head", true));
}

TEST(LoraConfig, SettingsThatCannotWorkAreNamed) {
  using Change = void (*)(LoraSettings&);
  const std::vector<std::pair<Change, std::string>> cases = {
      {[](LoraSettings& s) { s.r = 0; }, "r is 0, wanted 1 to 65536"},
      {[](LoraSettings& s) { s.lora_alpha = -1; }, "lora_alpha is -1"},
      {[](LoraSettings& s) { s.lora_dropout = 1; }, "lora_dropout is 1"},
      {[](LoraSettings& s) { s.target_modules.clear(); }, "0 of these are set"},
      {[](LoraSettings& s) { s.target_all_linear = true; }, "2 of these are set"},
      {[](LoraSettings& s) {
         s.rank_pattern = {{"q", 0}};
       },
       "rank_pattern q is 0"},
      {[](LoraSettings& s) {
         s.alpha_pattern = {{"q", NAN}};
       },
       "alpha_pattern q is nan"},
      {[](LoraSettings& s) {
         s.alpha_pattern = {{"(q", 1}};
       },
       "is not a regular expression"},
      {[](LoraSettings& s) { s.bias = "some"; }, "bias is \"some\""},
      {[](LoraSettings& s) { s.task_type = "CHAT"; }, "task_type is \"CHAT\""},
      {[](LoraSettings& s) { s.layers_to_transform = {-1}; }, "layers_to_transform holds -1"},
      {[](LoraSettings& s) { s.layers_pattern = {"h"}; }, "without layers_to_transform"},
      {[](LoraSettings& s) {
         s.target_modules.clear();
         s.target_all_linear = true;
         s.layers_to_transform = {0};
       },
       "layers_to_transform needs a list of target_modules"}};
  for (const auto& [change, message] : cases) {
    LoraSettings settings;
    settings.target_modules = {"q_proj"};
    change(settings);
    expect_error(ErrorCode::kInvalidArgument, message,
                 [&] { LoraConfig::from_settings(settings); });
  }
}

// Two Linears of ranks 2 and 3.
class SaveAdapterTest : public ::testing::Test {
 protected:
  SaveAdapterTest() {
    settings_.r = 2;
    settings_.target_modules = {"q_proj", "v_proj"};
    settings_.rank_pattern = {{"v_proj", 3}};
    options_.notes.base_content_hash = "0123456789abcdef";
    options_.notes.base_name = "tiny";
    test::RandomValues random(3);
    for (LoraWeights* weights : {&q_, &v_}) {
      weights->rank = weights == &q_ ? 2 : 3;
      weights->a = random.normal(weights->rank * 5, 0, 1);
      weights->b = random.normal(weights->rank * 4, 0, 1);
      weights->scale = weights == &q_ ? 4.0f : 8.0f / 3;
    }
  }
  void save() {
    save_adapter(path_, LoraConfig::from_settings(settings_), weights_, full_, options_);
  }
  std::unique_ptr<LoraAdapter> load() {
    return LoraAdapter::load(path_, {{"layers.0.q_proj", 5, 4}, {"layers.0.v_proj", 5, 4}},
                             tensors_);
  }
  void expect_refused(const std::string& part) {
    expect_error(ErrorCode::kInvalidArgument, part, [&] { save(); });
    EXPECT_THAT(file_names(folder_.path()), ::testing::IsEmpty());
  }

  test::TemporaryFolder folder_;
  fs::path path_ = folder_.path() / "adapter";
  LoraSettings settings_;
  LoraWeights q_;
  LoraWeights v_;
  AdapterWeightsByPath weights_ = {{"layers.0.q_proj", &q_}, {"layers.0.v_proj", &v_}};
  FullTensorsByName full_;
  std::vector<CausalLm::TensorSlot> tensors_;
  SaveAdapterOptions options_;
};

TEST_F(SaveAdapterTest, WhatIsSavedIsLoadedBitForBit) {
  save();
  const auto adapter = load();
  EXPECT_EQ(adapter->find("layers.0.q_proj")->a, q_.a);
  EXPECT_EQ(adapter->find("layers.0.v_proj")->b, v_.b);
  EXPECT_EQ(adapter->find("layers.0.v_proj")->scale, v_.scale);
  EXPECT_THAT(adapter->warnings(), ::testing::IsEmpty());
  const auto file = SafetensorsFile::open(path_ / "adapter_model.safetensors");
  EXPECT_THAT(file->metadata(), ElementsAre(std::pair("format", "pt")));
  EXPECT_THAT(file_names(path_), UnorderedElementsAre("adapter_config.json", "quarry_adapter.json",
                                                      "adapter_model.safetensors"));
  EXPECT_THAT(file_names(folder_.path()), ElementsAre("adapter"));
}

TEST_F(SaveAdapterTest, PeftsFilesAreWrittenAgainWithTheSameTensors) {
  for (const fs::path& original : peft_folders()) {
    SCOPED_TRACE(original.string());
    if (original.filename() == "alora") continue;  // refused where nothing says from where it acts
    const LoraConfig config = LoraConfig::load(original / "adapter_config.json");
    const auto file = SafetensorsFile::open(original / "adapter_model.safetensors");
    std::vector<CausalLm::LinearSlot> slots;
    for (const TensorView& tensor : file->tensors()) {
      const size_t tail = tensor.name.find(".lora_A.weight");
      if (tail == std::string::npos) continue;
      const std::string path = tensor.name.substr(17, tail - 17);
      const auto& b = file->get("base_model.model." + path + ".lora_B.weight");
      slots.push_back({path, tensor.shape[1], b.shape[0]});
    }
    bool repeats_biases = false;  // of copied modules, under their inner names
    tensors_.clear();
    for (const TensorView& tensor : file->tensors()) {
      if (tensor.name.find(".lora_") != std::string::npos) continue;
      const bool inner = tensor.name.find(".original_module.") != std::string::npos ||
                         tensor.name.find(".modules_to_save.") != std::string::npos;
      repeats_biases = repeats_biases || inner;
      std::string name = tensor.name.substr(17);
      const size_t base_layer = name.find(".base_layer");
      if (base_layer != std::string::npos) name.erase(base_layer, 11);
      if (!inner) tensors_.push_back({name, tensor.shape, CausalLm::TensorSlot::Use::kVector});
    }
    const auto adapter = LoraAdapter::load(original, slots, tensors_);
    EXPECT_EQ(adapter->full().size(), tensors_.size());
    save_adapter(path_, config, *adapter, options_);
    if (repeats_biases) continue;
    EXPECT_EQ(read_bytes(path_ / "adapter_model.safetensors"),
              read_bytes(original / "adapter_model.safetensors"));
    EXPECT_EQ(read_json_file(path_ / "adapter_config.json"),
              read_json_file(original / "adapter_config.json"));
  }
}

TEST_F(SaveAdapterTest, HalfPrecisionSurvivesASecondRound) {
  for (const WeightType type : {WeightType::kBF16, WeightType::kF16}) {
    options_.type = type;
    save();
    const std::string first = read_bytes(path_ / "adapter_model.safetensors");
    const auto adapter = load();
    EXPECT_NEAR(adapter->find("layers.0.q_proj")->a[0], q_.a[0], std::fabs(q_.a[0]) / 128);
    weights_ = {{"layers.0.q_proj", adapter->find("layers.0.q_proj")},
                {"layers.0.v_proj", adapter->find("layers.0.v_proj")}};
    save();
    EXPECT_EQ(read_bytes(path_ / "adapter_model.safetensors"), first);
    weights_ = {{"layers.0.q_proj", &q_}, {"layers.0.v_proj", &v_}};
  }
}

TEST_F(SaveAdapterTest, AnAdapterIsReplacedAndAnotherFolderIsNot) {
  options_.model_card = "# Card\n";
  save();
  EXPECT_EQ(read_bytes(path_ / "README.md"), "# Card\n");
  q_.a[0] = 42;
  options_.model_card.clear();
  save();
  EXPECT_EQ(load()->find("layers.0.q_proj")->a[0], 42);
  EXPECT_FALSE(fs::exists(path_ / "README.md"));
  EXPECT_THAT(file_names(folder_.path()), ElementsAre("adapter"));

  fs::remove(path_ / "adapter_config.json");
  expect_error(ErrorCode::kInvalidArgument, "holds files that are not an adapter's",
               [&] { save(); });
  path_ = path_ / "quarry_adapter.json";
  expect_error(ErrorCode::kInvalidArgument, "is not a folder", [&] { save(); });
}

TEST_F(SaveAdapterTest, InitialisationsThatChangeTheBaseAreSavedAsPlainLora) {
  settings_.init_lora_weights = "pissa";
  save();
  EXPECT_EQ(read_json_file(path_ / "adapter_config.json")["init_lora_weights"], true);
  load();
}

TEST_F(SaveAdapterTest, WholeParametersComeBackUnderPeftsNames) {
  settings_.modules_to_save = {"lm_head"};
  settings_.bias = "lora_only";
  FullTensor head;
  head.shape = {3, 2};
  head.values = {1, 2, 3, 4, 5, 6};
  FullTensor bias;
  bias.shape = {4};
  bias.use = CausalLm::TensorSlot::Use::kVector;
  bias.values = {1, 2, 3, 4};
  full_ = {{"lm_head.weight", &head}, {"layers.0.q_proj.bias", &bias}};
  tensors_ = {{"lm_head.weight", {3, 2}}, {"layers.0.q_proj.bias", {4}, bias.use}};
  save();
  const auto file = SafetensorsFile::open(path_ / "adapter_model.safetensors");
  EXPECT_NE(file->find("base_model.model.lm_head.weight"), nullptr);
  EXPECT_NE(file->find("base_model.model.layers.0.q_proj.base_layer.bias"), nullptr);
  const auto adapter = load();
  EXPECT_EQ(adapter->find_full("lm_head.weight")->values, head.values);
  EXPECT_EQ(adapter->find_full("layers.0.q_proj.bias")->values, bias.values);
  bias.values.pop_back();
  expect_error(ErrorCode::kInvalidArgument, "base_layer.bias' holds 3 values, wanted 4",
               [&] { save(); });
  full_["layers.0.q_proj.weight"] = &head;
  bias.values.push_back(4);
  expect_error(ErrorCode::kInvalidArgument, "'layers.0.q_proj.weight' is of no module in",
               [&] { save(); });
}

// PEFT's conversion of PiSSA: A' = [A; A0], B' = [B, -B0], r and alpha doubled.
TEST_F(SaveAdapterTest, PairsWithAStartAreSavedAsPlainLoraOfTwiceTheRank) {
  for (const bool rslora : {false, true}) {
    settings_.init_lora_weights = "pissa";
    settings_.use_rslora = rslora;
    settings_.alpha_pattern = {{"v_proj", 5}};
    const LoraConfig config = LoraConfig::from_settings(settings_);
    q_.scale = static_cast<float>(config.scale("layers.0.q_proj"));
    v_.scale = static_cast<float>(config.scale("layers.0.v_proj"));
    LoraWeights start = q_;
    start.a[0] = 7;
    start.b[1] = 9;
    q_.start = std::make_shared<const LoraWeights>(start);
    v_.start = std::make_shared<const LoraWeights>(v_);
    q_.pack();
    save_adapter(path_, config, LoraAdapter({{"layers.0.q_proj", q_}, {"layers.0.v_proj", v_}}),
                 options_);
    const Json json = read_json_file(path_ / "adapter_config.json");
    EXPECT_EQ(json["r"], 4);
    EXPECT_EQ(json["rank_pattern"]["v_proj"], 6);
    EXPECT_DOUBLE_EQ(json["lora_alpha"].get<double>(), rslora ? 8 * std::sqrt(2.0) : 16);
    EXPECT_DOUBLE_EQ(json["alpha_pattern"]["v_proj"].get<double>(),
                     rslora ? 5 * std::sqrt(2.0) : 10);
    EXPECT_EQ(json["init_lora_weights"], true);
    const auto adapter = load();
    const LoraWeights& q = *adapter->find("layers.0.q_proj");
    EXPECT_FLOAT_EQ(q.scale, q_.scale);
    EXPECT_EQ(q.rank, 4);
    EXPECT_EQ(q.a[10], 7);  // row 2: A0
    EXPECT_EQ(q.b[0], q_.b[0]);
    EXPECT_EQ(q.b[3], -9);  // B0 [0, 1]
  }
}

TEST_F(SaveAdapterTest, WeightsThatContradictTheConfigurationAreRefused) {
  q_.rank = 1;
  expect_refused("adapter of 'layers.0.q_proj' has rank 1, its configuration says 2");
  q_.rank = 2;
  v_.scale = 3;
  expect_refused("adapter of 'layers.0.v_proj' has scale 3, its configuration says 2.66667");
  v_.scale = 8.0f / 3;
  q_.b[3] = std::numeric_limits<float>::infinity();
  expect_refused("'base_model.model.layers.0.q_proj.lora_B.weight' holds a value that is not fin");
  q_.b.pop_back();
  expect_refused("lora_B.weight' holds 7 values, wanted 6");
  weights_.clear();
  expect_refused("an adapter needs the weights of at least one Linear");
}

TEST_F(SaveAdapterTest, TheNotesComeBackAndBindTheBaseModel) {
  options_.notes.rag_template = "plain";
  options_.notes.rag_template_version = 3;
  options_.notes.not_in_documents = "Not in the documents.";
  options_.notes.refusal_bias = -1.25;
  save();
  const auto notes = read_adapter_notes(path_);
  ASSERT_TRUE(notes.has_value());
  EXPECT_EQ(notes->base_content_hash, "0123456789abcdef");
  EXPECT_EQ(notes->base_name, "tiny");
  EXPECT_EQ(notes->rag_template, "plain");
  EXPECT_EQ(notes->rag_template_version, 3);
  EXPECT_EQ(notes->not_in_documents, "Not in the documents.");
  EXPECT_EQ(notes->refusal_bias, -1.25);
  check_adapter_base(path_, "0123456789abcdef", "any name");
  expect_error(ErrorCode::kInvalidArgument,
               "was trained on 'tiny' (content hash 0123456789ab), this model is 'other' (fedcba",
               [&] { check_adapter_base(path_, "fedcba9876543210", "other"); });
}

TEST_F(SaveAdapterTest, WithoutNotesEveryBaseIsAccepted) {
  save();
  fs::remove(path_ / "quarry_adapter.json");
  EXPECT_FALSE(read_adapter_notes(path_).has_value());
  check_adapter_base(path_, "fedcba9876543210", "other");
  test::write_file(path_ / "quarry_adapter.json", R"({"base_model": {"name": 3}})");
  expect_error(ErrorCode::kCorruptData,
               "quarry_adapter.json: ", [&] { read_adapter_notes(path_); });
  test::write_file(path_ / "quarry_adapter.json", "[]");
  expect_error(ErrorCode::kCorruptData, "is not an object", [&] { read_adapter_notes(path_); });
}

}  // namespace
}  // namespace quarry
