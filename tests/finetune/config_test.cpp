#include "finetune/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <set>

#include "data/core/error.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

FinetuneConfig from_yaml(const std::string& text) {
  FinetuneConfig config;
  read_config_yaml(text, "run.yaml", config);
  return config;
}

std::string yaml_message(const std::string& text) {
  return message_of([&] { from_yaml(text); });
}

TEST(FinetuneConfig, DefaultsAreThoseOfTheIssue) {
  const FinetuneConfig config;
  EXPECT_EQ(config.adapter.r, 16);
  EXPECT_EQ(config.adapter.lora_alpha, 32);
  EXPECT_TRUE(config.adapter.target_all_linear);
  EXPECT_EQ(config.training.learning_rate, 5e-4);
  EXPECT_EQ(config.training.schedule, Decay::kCosine);
  EXPECT_EQ(config.training.warmup_ratio, 0.03);
  EXPECT_EQ(automatic_batch_size(1000), 16);
  EXPECT_EQ(config.training.max_grad_norm, 1.0);
}

TEST(FinetuneConfig, FewRowsAreSeenOftener) {
  EXPECT_EQ(automatic_epochs(1), 20.0);
  EXPECT_EQ(automatic_epochs(20), 20.0);
  EXPECT_EQ(automatic_epochs(160), 4.0);
  EXPECT_EQ(automatic_epochs(640), 1.0);
  EXPECT_EQ(automatic_epochs(100000), 1.0);
  EXPECT_EQ(automatic_batch_size(1), 4);
  EXPECT_EQ(automatic_batch_size(20), 4);
  EXPECT_EQ(automatic_batch_size(60), 12);
  EXPECT_EQ(automatic_batch_size(80), 16);
}

TEST(FinetuneConfig, ReadsEverySection) {
  const FinetuneConfig config = from_yaml(R"(# a run
model: {path: smollm2, load_in: nf4}
data:
  train: [a.jsonl, "b, c.csv"]
  columns: {question: q, answer: a}
passages:
  mode: mixed
  index: /tmp/index
  unanswerable_share: 0.25
adapter:
  r: 8
  lora_alpha: 16.5
  use_rslora: yes
  target_modules: [q_proj, v_proj]
  rank_pattern: {'.*\.layers\.[01]\..*down_proj': 4, v_proj: 2}
  alpha_pattern: {v_proj: 3}
  layers_to_transform: [0, 29]
training.learning_rate: 2e-4
training:
  schedule: linear
  optimizer: adamw8bit
  checkpointing: off
  seed: 18446744073709551615
output_dir: out
)");
  EXPECT_EQ(config.model.path, "smollm2");
  EXPECT_EQ(config.model.load_in, "nf4");
  EXPECT_THAT(config.data.train, ElementsAre("a.jsonl", "b, c.csv"));
  EXPECT_EQ(config.data.columns.at("question"), "q");
  EXPECT_EQ(config.passages.mode, "mixed");
  EXPECT_EQ(config.passages.unanswerable_share, 0.25);
  EXPECT_EQ(config.adapter.lora_alpha, 16.5);
  EXPECT_TRUE(config.adapter.use_rslora);
  EXPECT_FALSE(config.adapter.target_all_linear);
  EXPECT_THAT(config.adapter.target_modules, ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(config.adapter.rank_pattern.at(".*\\.layers\\.[01]\\..*down_proj"), 4);
  EXPECT_EQ(config.adapter.alpha_pattern.at("v_proj"), 3);
  EXPECT_THAT(config.adapter.layers_to_transform, ElementsAre(0, 29));
  EXPECT_EQ(config.training.learning_rate, 2e-4);
  EXPECT_EQ(config.training.schedule, Decay::kLinear);
  EXPECT_EQ(config.training.optimizer, OptimizerKind::kAdamW8bit);
  EXPECT_FALSE(config.training.checkpointing);
  EXPECT_EQ(config.training.seed, 18446744073709551615ULL);
  EXPECT_EQ(config.training.batch_size, 0);  // not named: stays
  EXPECT_EQ(config.output_dir, "out");
  check_config(config);
}

TEST(FinetuneConfig, TargetModulesAreAListAPatternOrAllLinear) {
  const auto targets = [](const std::string& text) {
    FinetuneConfig config;
    set_config_field(config, "adapter.target_modules", text);
    return config.adapter;
  };
  EXPECT_THAT(targets("q_proj, v_proj").target_modules, ElementsAre("q_proj", "v_proj"));
  EXPECT_THAT(targets("q").target_modules, ElementsAre("q"));
  EXPECT_THAT(targets("['a', b]").target_modules, ElementsAre("a", "b"));
  EXPECT_EQ(targets(".*\\.(q|v)_proj").target_pattern, ".*\\.(q|v)_proj");
  EXPECT_FALSE(targets(".*\\.(q|v)_proj").target_all_linear);
  EXPECT_TRUE(targets("all-linear").target_all_linear);
}

TEST(FinetuneConfig, YamlOfTheResolvedConfigurationReadsBack) {
  FinetuneConfig config = from_yaml(R"(
model: {path: "odd: name # x"}
data: {train: ["a: b.jsonl", 'c, [d].jsonl', "e\nf"], columns: {answer: "the: answer"}}
adapter:
  target_modules: '.*\.(q|v)_proj: #x'
  exclude_modules: [up_proj]
  rank_pattern: {'[ab]\.x': 3, "k: y": 4}
  lora_dropout: 0.1
training: {learning_rate: 0.00012345678901234567, epochs: 1.5, compute: f32}
)");
  const std::string yaml = to_yaml(config);
  const FinetuneConfig again = from_yaml(yaml);
  EXPECT_EQ(to_yaml(again), yaml);
  for (const ConfigField& field : config_fields()) {
    EXPECT_EQ(field.get(again), field.get(config)) << field.name;
  }
  EXPECT_EQ(again.model.path, "odd: name # x");
  EXPECT_EQ(again.data.train, config.data.train);
  EXPECT_EQ(again.adapter.target_pattern, ".*\\.(q|v)_proj: #x");
  EXPECT_EQ(again.adapter.rank_pattern, config.adapter.rank_pattern);
  EXPECT_EQ(again.training.learning_rate, config.training.learning_rate);
  EXPECT_EQ(config_hash(again), config_hash(config));
}

TEST(FinetuneConfig, EveryFieldHasHelpAndAcceptsItsOwnText) {
  std::set<std::string> names;
  FinetuneConfig config;
  for (const ConfigField& field : config_fields()) {
    EXPECT_TRUE(names.insert(field.name).second) << field.name;
    EXPECT_FALSE(field.help.empty()) << field.name;
    field.set(config, field.default_text);
    EXPECT_EQ(field.get(config), field.default_text) << field.name;
  }
  EXPECT_GT(names.size(), 55U);
}

TEST(FinetuneConfig, UnknownKeysNameLineAndNearest) {
  EXPECT_EQ(yaml_message("training:\n  batch_size: 4\n  learning_rte: 1e-3\n"),
            "run.yaml:3: unknown option \"training.learning_rte\": did you mean "
            "training.learning_rate?");
  EXPECT_EQ(yaml_message("learning_rate: 1e-3\n"),
            "run.yaml:1: unknown option \"learning_rate\": did you mean training.learning_rate?");
  EXPECT_THAT(yaml_message("adaptor:\n  r: 1\n"), StartsWith("run.yaml:1: unknown option"));
  FinetuneConfig config;
  EXPECT_EQ(message_of([&] { set_config_field(config, "adapter.rank", "4"); }),
            "unknown option \"adapter.rank\": did you mean adapter.r?");
  EXPECT_EQ(message_of([&] { set_config_field(config, "adaptor.dropuot", "0"); }),
            "unknown option \"adaptor.dropuot\": `quarry finetune --fields` lists those there are");
  EXPECT_EQ(message_of([&] { set_config_field(config, "query_encoder.learning_rat", "1"); }),
            "unknown option \"query_encoder.learning_rat\": did you mean "
            "query_encoder.learning_rate?");
  for (const char* name : {"foo", "training.warp_drive", "adapter", "x", "", ".", "training."}) {
    EXPECT_THAT(message_of([&] { set_config_field(config, name, "1"); }),
                HasSubstr("`quarry finetune --fields` lists those there are"))
        << name;
  }
}

TEST(FinetuneConfig, MistakesOfYamlNameTheLine) {
  EXPECT_EQ(yaml_message("\nadapter: {r: 0}\n"),
            "run.yaml:2: adapter.r is \"0\", wanted a whole number from 1 to 65536");
  EXPECT_EQ(yaml_message("training:\n  epochs: many\n"),
            "run.yaml:2: training.epochs is \"many\", wanted a number from 0 to 1e+06");
  EXPECT_EQ(yaml_message("training: {schedule: cosin}"),
            "run.yaml:1: training.schedule is \"cosin\", wanted one of constant, linear, cosine");
  EXPECT_EQ(yaml_message("training: {packing: 2}"),
            "run.yaml:1: training.packing is \"2\", wanted true or false");
  EXPECT_EQ(yaml_message("training: {seed: -1}"),
            "run.yaml:1: training.seed is \"-1\", wanted a whole number from 0 to 2^64 - 1");
  EXPECT_EQ(yaml_message("adapter:\n  r: 4\n  r: 8\n"), "run.yaml:3: adapter.r is given twice");
  EXPECT_EQ(yaml_message("adapter: {r: [4]}"), "run.yaml:1: adapter.r is a list, wanted one value");
  EXPECT_EQ(yaml_message("data: {train: {a: b}}"),
            "run.yaml:1: data.train is a map, wanted a list");
  EXPECT_EQ(yaml_message("data: {train: [[a]]}"),
            "run.yaml:1: data.train holds something that is not one value");
  EXPECT_EQ(yaml_message("adapter: 4"),
            "run.yaml:1: adapter is a section, wanted options below it");
  EXPECT_THAT(yaml_message("a: [1,\nb: }"), StartsWith("run.yaml:2: not YAML"));
  EXPECT_THAT(yaml_message("[1]"), StartsWith("run.yaml:1: not a map of options"));
  EXPECT_EQ(yaml_message("adapter: {rank_pattern: {x: 0}}"),
            "run.yaml:1: adapter.rank_pattern.x is \"0\", wanted a whole number from 1 to 65536");
  EXPECT_EQ(yaml_message(""), "no error");
  EXPECT_EQ(yaml_message("adapter:\n"), "no error");
}

TEST(FinetuneConfig, AFileThatIsWrongChangesNothing) {
  FinetuneConfig config;
  EXPECT_NE(message_of([&] { read_config_yaml("adapter: {r: 4, x: 1}", "x", config); }),
            "no error");
  EXPECT_EQ(config.adapter.r, 16);
}

TEST(FinetuneConfig, LoadsAFileAndFlagsOverride) {
  const test::TemporaryFolder folder;
  std::ofstream(folder.path() / "run.yaml") << "adapter: {r: 4}\ndata: {train: x.jsonl}\n";
  FinetuneConfig config;
  load_config_yaml(folder.path() / "run.yaml", config);
  set_config_field(config, "adapter.r", "32");
  EXPECT_EQ(config.adapter.r, 32);
  EXPECT_THAT(config.data.train, ElementsAre("x.jsonl"));
  EXPECT_THAT(message_of([&] { load_config_yaml(folder.path() / "none.yaml", config); }),
              HasSubstr("none.yaml: cannot open the configuration"));
}

TEST(FinetuneConfig, CheckNamesFieldFoundAndWanted) {
  const auto checked = [](const std::function<void(FinetuneConfig&)>& change) {
    FinetuneConfig config;
    config.data.train = {"a.jsonl"};
    change(config);
    return message_of([&] { check_config(config); });
  };
  EXPECT_EQ(checked([](auto&) {}), "no error");
  EXPECT_EQ(checked([](auto& c) { c.data.train.clear(); }),
            "data.train is empty, wanted at least one file");
  EXPECT_EQ(checked([](auto& c) { c.training.batch_size = -1; }),
            "training.batch_size is \"-1\", wanted a whole number from 0 to 1048576");
  EXPECT_THAT(checked([](auto& c) { c.training.learning_rate = 0.0 / 1.0; }),
              HasSubstr("training.learning_rate is \"0\", wanted a number from 1e-12 to 10"));
  EXPECT_THAT(checked([](auto& c) { c.passages.mode = "retrieved"; }),
              HasSubstr("passages.mode is retrieved and passages.index is empty"));
  EXPECT_THAT(checked([](auto& c) { c.training.micro_batch_tokens = 100; }),
              HasSubstr("training.micro_batch_tokens is 100, wanted at least"));
  EXPECT_THAT(checked([](auto& c) { c.adapter.init_lora_weights = "olora"; }),
              HasSubstr("adapter.init_lora_weights is \"olora\""));
  EXPECT_EQ(checked([](auto& c) { c.adapter.init_lora_weights = "pissa_niter_16"; }), "no error");
  EXPECT_THAT(checked([](auto& c) {
                c.adapter.init_lora_weights = "loftq";
                c.adapter.loftq_weights = "dense";
                c.model.load_in = "bf16";
              }),
              HasSubstr("init_lora_weights is loftq and model.load_in bf16"));
  EXPECT_THAT(checked([](auto& c) { c.adapter.init_lora_weights = "loftq"; }),
              HasSubstr("adapter.loftq_weights empty"));
  EXPECT_THAT(checked([](auto& c) { c.adapter.loftq_weights = "dense"; }),
              HasSubstr("adapter.init_lora_weights true, wanted loftq"));
  EXPECT_THAT(checked([](auto& c) { c.adapter.target_modules = {"q_proj"}; }),
              HasSubstr("adapter.target_modules must be"));
  EXPECT_THAT(checked([](auto& c) { c.data.columns["anser"] = "a"; }),
              HasSubstr("data.columns has a role \"anser\""));
  EXPECT_THAT(checked([](auto& c) {
                c.training.max_steps = 10;
                c.training.warmup_steps = 10;
              }),
              HasSubstr("training.warmup_steps is 10, wanted fewer than training.max_steps, 10"));
}

TEST(FinetuneConfig, HashCoversWhatAResumedRunMustShare) {
  FinetuneConfig config;
  const std::string hash = config_hash(config);
  config.output_dir = "elsewhere";
  config.training.save_every = 7;
  config.training.threads = 3;
  EXPECT_EQ(config_hash(config), hash);
  config.training.seed = 2;
  EXPECT_NE(config_hash(config), hash);
}

TEST(FinetuneConfig, ScheduleAndOptimizerTakeTheirOptions) {
  FinetuneConfig config;
  config.training.weight_decay = 0.1;
  config.training.adam_beta2 = 0.95;
  EXPECT_EQ(config.adamw_options().weight_decay, 0.1);
  EXPECT_EQ(config.adamw_options().beta2, 0.95);
  const LearningRateSchedule schedule = config.learning_rate_schedule(100);
  EXPECT_EQ(schedule.warmup_steps, 3);
  EXPECT_EQ(schedule.at(3), 5e-4);
}

}  // namespace
}  // namespace quarry
