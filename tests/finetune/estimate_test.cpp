#include "finetune/estimate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "data/core/error.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(ModelShape, ParameterCountsAreThePublishedOnes) {
  const std::pair<const char*, int64_t> wanted[] = {{"T0_3B", 2849757184},
                                                    {"flan-t5-small", 77133184 - 172032},
                                                    {"flan-t5-base", 247577856},
                                                    {"flan-t5-large", 784329728 - 1179648},
                                                    {"mt0-large", 1231940608 - 2359296},
                                                    {"mt0-xxl", 12921057280},
                                                    {"bloomz-7b1", 7069016064},
                                                    {"opt-125m", 125239296},
                                                    {"opt-350m", 331196416},
                                                    {"gpt2", 124439808},
                                                    {"bert-base-uncased", 109482240},
                                                    {"SmolLM2-135M", 134515008},
                                                    {"Qwen2.5-3B", 3089625088 - 3686400}};
  EXPECT_EQ(std::size(wanted), known_model_names().size());
  for (const auto& [name, parameters] : wanted) {
    EXPECT_EQ(find_model_shape(name).num_parameters, parameters) << name;
  }
}

TEST(ModelShape, ConfigOfAFolderAndItsMistakes) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "config.json";
  const auto write = [&](const std::string& text) { std::ofstream(path) << text; };
  write(R"({"model_type": "t5", "d_model": 8, "d_kv": 2, "d_ff": 16, "num_layers": 1,
            "num_heads": 4, "vocab_size": 10})");
  // shared 80; attention 4 * 64 + 8; ffn 2 * 128 + 8; encoder + decoder + buckets and last norms;
  // the tied head adds nothing.
  EXPECT_EQ(find_model_shape(folder.path().string()).num_parameters,
            80 + (264 + 264) + (2 * 264 + 264) + 2 * (32 * 4 + 8));
  EXPECT_EQ(find_model_shape(path.string()).num_layers, 2);
  write(R"({"model_type": "gptj"})");
  EXPECT_THAT(message_of([&] { find_model_shape(path.string()); }),
              HasSubstr("config.json: model_type is \"gptj\", wanted one of llama, mistral"));
  write(R"({"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_positions": -4, "vocab_size": 3})");
  EXPECT_THAT(message_of([&] { find_model_shape(path.string()); }), HasSubstr("n_positions"));
  write(R"({"model_type": "gpt2", "n_embd": 8, "n_layer": 20000, "n_positions": 4,
            "vocab_size": 3})");
  EXPECT_THAT(message_of([&] { find_model_shape(path.string()); }),
              HasSubstr("20000 layers, wanted at most 10000"));
  write(R"({"model_type": "gpt2", "n_embd": 2147483647, "n_layer": 1, "n_positions": 4,
            "vocab_size": 2147483647})");
  EXPECT_THAT(message_of([&] { find_model_shape(path.string()); }),
              HasSubstr("a tensor of 2147483647 x 2147483647 values, wanted extents"));
  write(R"({"model_type": "gpt2", "n_embd": 268435456, "n_layer": 1000, "n_positions": 4,
            "vocab_size": 3})");
  EXPECT_THAT(message_of([&] { find_model_shape(path.string()); }),
              HasSubstr("more than 2^63 parameters"));
  EXPECT_THAT(message_of([&] { find_model_shape("T0_4B"); }),
              HasSubstr("T0_4B: neither a config.json, a folder that holds one, nor one of T0_3B"));
}

LoraSettings lora(int64_t r, const std::vector<std::string>& targets) {
  LoraSettings settings;
  settings.r = r;
  settings.target_modules = targets;
  return settings;
}

std::string trainable(const char* model, const LoraSettings& settings) {
  return format_trainable(count_trainable(find_model_shape(model), settings));
}

TEST(CountTrainable, LinesArePeftsOwn) {
  EXPECT_EQ(trainable("flan-t5-base", lora(4, {"q", "v"})),
            "trainable params: 442,368 || all params: 248,020,224 || trainable%: 0.1784");
  EXPECT_EQ(trainable("flan-t5-small", lora(4, {"q", "v"})),
            "trainable params: 172,032 || all params: 77,133,184 || trainable%: 0.2230");
  EXPECT_EQ(trainable("flan-t5-large", lora(4, {"q", "v"})),
            "trainable params: 1,179,648 || all params: 784,329,728 || trainable%: 0.1504");
  EXPECT_EQ(trainable("opt-125m", lora(8, {"q_proj", "v_proj"})),
            "trainable params: 294,912 || all params: 125,534,208 || trainable%: 0.2349");
  EXPECT_EQ(trainable("Qwen2.5-3B", lora(16, {"q_proj", "v_proj"})),
            "trainable params: 3,686,400 || all params: 3,089,625,088 || trainable%: 0.1193");
  EXPECT_EQ(trainable("mt0-large", lora(8, {})),  // the family's defaults: q, v
            "trainable params: 2,359,296 || all params: 1,231,940,608 || trainable%: 0.1915");
  EXPECT_EQ(trainable("gpt2", lora(8, {})),
            "trainable params: 294,912 || all params: 124,734,720 || trainable%: 0.2364");
}

TEST(CountTrainable, AllLinearPatternsSavedModulesAndBiases) {
  LoraSettings settings;
  settings.r = 8;
  settings.target_all_linear = true;
  const ModelShape smollm = find_model_shape("SmolLM2-135M");
  const int64_t per_layer = 8 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536));
  const TrainableCount all = count_trainable(smollm, settings);
  EXPECT_EQ(all.trainable, 30 * per_layer);
  EXPECT_EQ(all.all, 134515008 + 30 * per_layer);
  // B of k_proj and v_proj, [192, 8], is below 4096 elements.
  EXPECT_EQ(all.in_large_tensors, 30 * (per_layer - 2 * 192 * 8));
  settings.layers_to_transform = {};
  settings.rank_pattern["down_proj"] = 16;
  EXPECT_EQ(count_trainable(smollm, settings).trainable, 30 * (per_layer + 8 * (576 + 1536)));
  settings.rank_pattern.clear();
  settings.modules_to_save = {"embed_tokens"};
  const TrainableCount saved = count_trainable(smollm, settings);
  EXPECT_EQ(saved.trainable, 30 * per_layer + 49152 * 576);
  EXPECT_EQ(saved.all, 134515008 + saved.trainable);

  LoraSettings with_bias = lora(8, {"q_proj", "v_proj"});
  with_bias.bias = "lora_only";
  const ModelShape opt = find_model_shape("opt-125m");
  EXPECT_EQ(count_trainable(opt, with_bias).trainable, 294912 + 12 * 2 * 768);
  EXPECT_EQ(count_trainable(opt, with_bias).all, 125534208);
  with_bias.bias = "all";
  EXPECT_EQ(count_trainable(opt, with_bias).trainable,
            294912 + 12 * (4 * 768 + 3072 + 768 + 2 * 768) + 768);
  EXPECT_THAT(message_of([&] { count_trainable(opt, lora(8, {"query"})); }),
              HasSubstr("match no Linear of a opt model"));
}

// tests/golden/peft: what Python PEFT prints for llama shapes.
TEST(CountTrainable, SavedModulesAndBiasesOfALlamaAreCountedAsPeftCounts) {
  const Json golden = read_json_file(QUARRY_SOURCE_DIR "/tests/golden/peft/trainable_counts.json");
  LoraSettings saved = lora(8, {"q_proj", "v_proj"});
  saved.modules_to_save = {"lm_head", "embed_tokens", "norm"};
  EXPECT_EQ(trainable("SmolLM2-135M", saved),
            golden["smollm2-135m r8 q,v saved"].get<std::string>());
  const std::string scaled = QUARRY_SOURCE_DIR "/tests/golden/models/llama_scaled";
  LoraSettings settings = lora(4, {"q_proj", "v_proj"});
  settings.bias = "all";
  EXPECT_EQ(trainable(scaled.c_str(), settings), golden["bias_all"].get<std::string>());
  settings.modules_to_save = {"layers.1.mlp", "k_proj"};
  EXPECT_EQ(trainable(scaled.c_str(), settings), golden["saved_mlp"].get<std::string>());
  settings.modules_to_save.clear();
  settings.bias = "lora_only";
  EXPECT_EQ(trainable(scaled.c_str(), settings), golden["bias_lora_only"].get<std::string>());
}

// Table 1 of the seed: peak GB on an 80 GB device; 0: does not fit.
TEST(FrameworkEstimate, TheSixCellsOfTable1AreWithinTenPercent) {
  struct Row {
    const char* model;
    double full;
    double lora;
  };
  for (const Row& row :
       {Row{"T0_3B", 47.14, 14.4}, Row{"mt0-xxl", 0, 56}, Row{"bloomz-7b1", 0, 32}}) {
    const ModelShape shape = find_model_shape(row.model);
    FrameworkOptions options;
    options.method = TuningMethod::kFull;
    const FrameworkEstimate full = estimate_framework(shape, options);
    EXPECT_EQ(full.fits, row.full > 0) << row.model;
    if (row.full > 0) {
      EXPECT_NEAR(full.total_bytes / 1e9, row.full, 0.1 * row.full);
    }
    options.method = TuningMethod::kLora;
    const FrameworkEstimate lora = estimate_framework(shape, options);
    EXPECT_TRUE(lora.fits) << row.model;
    EXPECT_NEAR(lora.total_bytes / 1e9, row.lora, 0.1 * row.lora) << row.model;
    EXPECT_LT(lora.count.trainable, shape.num_parameters / 100);
  }
}

TrainingShape shape_of_smollm() {
  TrainingShape shape;
  shape.model = find_model_shape("SmolLM2-135M");
  shape.q_width = 576;
  shape.kv_width = 192;
  shape.count.trainable = 1000000;
  shape.count.in_large_tensors = 512000;
  shape.packed_parameters = 900000;
  shape.start_parameters = 30000;
  shape.base_bytes = 85000000;
  shape.tokens = 2048;
  shape.logit_tokens = 64;
  shape.threads = 2;
  return shape;
}

// Elements kept in a layer for a row.
constexpr int64_t kKept = 4 * 576 + 960 + 576 + 3 * 1536;
constexpr int64_t kGradients = 960 + 3 * 1536;

TEST(TrainingEstimate, PartsAreWhatTheirShapesSay) {
  EstimateConstants constants;
  constants.program_bytes = 50e6;
  constants.token_bytes = 100;
  constants.thread_bytes = 1e6;
  const TrainingShape shape = shape_of_smollm();
  const MemoryEstimate estimate = estimate_training(shape, constants);
  EXPECT_EQ(estimate.base_bytes, 85000000);
  EXPECT_EQ(estimate.adapter_bytes, 4 * (2 * 1000000 + 900000 + 2 * 30000));
  EXPECT_EQ(estimate.optimizer_bytes, 8000000);
  EXPECT_EQ(estimate.activation_bytes,
            2048 * (4 * (30 * 576 + 3 * 576 + 2 * kGradients) + 8 * 576 + 2 * kKept));
  EXPECT_EQ(estimate.logits_bytes, 64LL * 49152 * 4);
  EXPECT_EQ(estimate.checkpoint_bytes, 4 * (1000000 + 30000) + 8000000);
  EXPECT_EQ(estimate.workspace_bytes, 2048 * (8 * 576 + 3 * 1536 * 9 / 8) + 2000000);
  EXPECT_EQ(estimate.program_bytes, 50000000 + 4915200);
  EXPECT_EQ(estimate.total(), 85000000 + 11840000 + 8000000 + estimate.activation_bytes +
                                  64LL * 49152 * 4 + estimate.checkpoint_bytes +
                                  estimate.workspace_bytes + 54915200);
  EXPECT_THAT(to_text(estimate), HasSubstr("adapters        11.8 MB\n"));
  EXPECT_EQ(format_bytes(47.14e9), "47.14 GB");
}

TEST(TrainingEstimate, SettingsChangeTheirPartAlone) {
  const MemoryEstimate before = estimate_training(shape_of_smollm());
  TrainingShape shape = shape_of_smollm();
  shape.optimizer = OptimizerKind::kAdamW8bit;
  EXPECT_EQ(estimate_training(shape).optimizer_bytes, 2 * 512000 + 2 * 4 * 2000 + 8 * 488000);
  EXPECT_EQ(estimate_training(shape).activation_bytes, before.activation_bytes);

  shape = shape_of_smollm();
  shape.checkpointing = false;
  EXPECT_EQ(estimate_training(shape).activation_bytes - before.activation_bytes,
            2048LL * (2 * 29 * kKept - 4 * 30 * 576));
  EXPECT_EQ(estimate_training(shape).workspace_bytes, before.workspace_bytes);
  shape.is_exact = true;
  const MemoryEstimate exact = estimate_training(shape);
  EXPECT_EQ(exact.activation_bytes, 2048LL * (4 * (30 * kKept + 3 * 576 + kGradients) + 8 * 576));
}

TEST(BaseEstimate, LoadInChangesWhatLinearsTake) {
  BaseWeights base;
  base.file_bytes = 2 * (106000000 + 28000000);
  base.linear_file_bytes = 2 * 106000000;
  base.linear_values = 106000000;
  base.other_values = 28000000;
  EXPECT_EQ(held_base_bytes(base, LoadIn::kAsIs, false), base.file_bytes);
  EXPECT_EQ(held_base_bytes(base, LoadIn::kNF4, false), 56000000 + 106000000LL * 17 / 32);
  EXPECT_EQ(held_base_bytes(base, LoadIn::kInt8, false), 56000000 + 106000000LL * 17 / 16);
  EXPECT_EQ(held_base_bytes(base, LoadIn::kBF16, false), 2LL * 134000000);
  EXPECT_EQ(held_base_bytes(base, LoadIn::kNF4, true), 4LL * 134000000);
}

}  // namespace
}  // namespace quarry
