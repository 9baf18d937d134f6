#include "api/cli/finetune.h"

#include <unistd.h>

#include <iostream>
#include <map>
#include <memory>

#include "data/core/error.h"
#include "data/core/progress.h"
#include "finetune/run.h"

namespace quarry::cli {
namespace {

constexpr const char* kFooter = R"(Examples:
  quarry finetune --train questions.jsonl --out my-run
      rows {"question", "answer", "context"}, {"prompt", "completion"} or {"messages": [...]}
  quarry finetune --train train.jsonl --eval dev.jsonl --index my-index --passages mixed
      passages that `ask` would find, and questions that they do not answer
  quarry finetune --recipe rag-sequence --train train.jsonl --index my-index --top-k 5
      the passages are latent: the likelihood of the answers over what is found trains an adapter of
      the generator and one of the query encoder
  quarry finetune --recipe contrastive --train train.jsonl --index my-index
      the query encoder learns to find the passages that answer; no generator is loaded. distill:
      the frozen generator teaches it; reranker: a cross-encoder (--model) learns to put them first
  quarry finetune --recipe classification --model my-bert --train labelled.jsonl --set data.eval_share=0.2
      rows {"text", "label"} or {"sentence1", "sentence2", "label"}: LoRA and a head; tells the accuracy
  quarry finetune --config adapter_config.json --model my-t5 --train pairs.jsonl
      PEFT's LoraConfig as it is: task_type CAUSAL_LM, SEQ_2_SEQ_LM or SEQ_CLS chooses the recipe
  quarry finetune --config ludwig.yaml --train code.csv
      Ludwig's model_type: llm as it is; --train is its --dataset
  quarry finetune --config run.yaml --set training.learning_rate=2e-4 --dry-run
  quarry finetune --config my-run/config.yaml --resume
Then: quarry ask INDEX "question" --adapter my-run/last

Several processes train one run together, on one machine or more:
  torchrun --nproc-per-node 2 --no-python quarry finetune --train questions.jsonl --out my-run
      also mpirun -n 2 quarry ..., and srun with MASTER_ADDR; --batch-size is that of each process

Every option is a field of the configuration (--fields lists them); a YAML file and --set name them.
--config may be given several times, of any kind: what a later file says counts.
Ctrl-C writes a checkpoint; --resume continues from it bit for bit.)";

struct FinetuneArguments {
  std::vector<std::string> config_files;
  std::map<std::string, std::string> named;  // dotted name -> text, from flags of their own
  std::vector<std::string> train;
  std::vector<std::string> eval;
  std::vector<std::string> set;  // "name=value"
  bool resume = false;
  bool dry_run = false;
  bool list_fields = false;
  bool as_json = false;
};

void print_fields(bool as_json) {
  if (as_json) {
    OrderedJson json = OrderedJson::array();
    for (const ConfigField& field : config_fields()) {
      json.push_back({{"name", field.name}, {"default", field.default_text}, {"help", field.help}});
    }
    return print_json(json);
  }
  for (const ConfigField& field : config_fields()) {
    std::cout << field.name << " = "
              << (field.default_text.empty() ? "(unset)" : field.default_text) << "\n    "
              << field.help << "\n";
  }
}

FinetuneConfig resolve(const FinetuneArguments& arguments) {
  FinetuneConfig config;
  for (const std::string& file : arguments.config_files) load_config(file, config);
  if (!arguments.train.empty()) config.data.train = arguments.train;
  if (!arguments.eval.empty()) config.data.eval = arguments.eval;
  for (const auto& [name, text] : arguments.named) set_config_field(config, name, text);
  for (const std::string& assignment : arguments.set) {
    const size_t equals = assignment.find('=');
    QUARRY_CHECK(equals != std::string::npos, ErrorCode::kInvalidArgument, "--set ", assignment,
                 ": wanted name=value");
    set_config_field(config, assignment.substr(0, equals), assignment.substr(equals + 1));
  }
  // An index is there to be used.
  const bool mode_is_given =
      arguments.named.count("passages.mode") > 0 || config.passages.mode != "given";
  if (!config.passages.index.empty() && !mode_is_given && config.recipe == "sft") {
    config.passages.mode = "mixed";
  }
  return config;
}

FinetuneEvents make_events(const CommandContext& context, Progress& progress) {
  FinetuneEvents events;
  events.cancel = context.cancel;
  events.note = [&progress](const std::string& line) { progress.note(line); };
  events.on_step = [&progress](const StepResult& result, int64_t num_steps,
                               double tokens_per_second) {
    char detail[128];
    std::snprintf(detail, sizeof(detail), "step %lld, loss %.4f, %.0f tokens/s",
                  static_cast<long long>(result.step), result.loss, tokens_per_second);
    progress.update("training", static_cast<double>(result.step), static_cast<double>(num_steps),
                    detail);
  };
  return events;
}

OrderedJson to_json(const MemoryEstimate& memory) {
  OrderedJson json;
  json["base_bytes"] = memory.base_bytes;
  json["adapter_bytes"] = memory.adapter_bytes;
  json["optimizer_bytes"] = memory.optimizer_bytes;
  json["activation_bytes"] = memory.activation_bytes;
  json["logits_bytes"] = memory.logits_bytes;
  json["checkpoint_bytes"] = memory.checkpoint_bytes;
  json["workspace_bytes"] = memory.workspace_bytes;
  json["program_bytes"] = memory.program_bytes;
  json["total_bytes"] = memory.total();
  return json;
}

OrderedJson to_json(const DataSummary& summary) {
  OrderedJson json;
  json["rows"] = summary.rows;
  json["groups"] = summary.groups;
  json["sequences"] = summary.sequences;
  json["unanswerable"] = summary.unanswerable;
  json["tokens"] = summary.tokens;
  json["targets"] = summary.targets;
  json["longest"] = summary.longest;
  json["longest_id"] = summary.longest_id;
  json["skipped"] = summary.skipped;
  return json;
}

OrderedJson to_json(const FinetuneConfig& config, const FinetunePlan& plan) {
  OrderedJson json;
  json["config"] = quarry::to_json(config);
  json["base_model"] = plan.base_model;
  json["trainable_parameters"] = plan.count.trainable;
  json["parameters"] = plan.count.all;
  json["notices"] = plan.notices;
  json["rows"] = plan.rows;
  json["steps"] = plan.steps;
  json["expected_seconds"] = plan.expected_seconds();
  json["first_step"] = {{"seconds", plan.step_seconds},
                        {"sequences", plan.first_step.sequences},
                        {"tokens", plan.first_step.tokens},
                        {"rows", plan.first_step.rows}};
  json["memory"] = to_json(plan.memory);
  json["memory"]["pass_rows"] = plan.pass_rows;
  json["first_batch"] = to_json(plan.first_batch);
  json["examples"] = plan.examples;
  return json;
}

void report(const FinetuneOutcome& outcome, bool as_json) {
  if (as_json) {
    OrderedJson json;
    json["steps"] = outcome.steps;
    json["seconds"] = outcome.seconds;
    json["train_loss"] = outcome.train_loss;
    if (outcome.best_eval_loss > 0.0) json["best_eval_loss"] = outcome.best_eval_loss;
    for (const auto& [name, value] : outcome.eval_figures) json["eval_" + name] = value;
    json["sequences"] = outcome.data.sequences;
    json["tokens"] = outcome.data.tokens;
    json["unanswerable"] = outcome.data.unanswerable;
    const auto add_path = [&json](const char* name, const std::filesystem::path& path) {
      if (!path.empty()) json[name] = path.string();
    };
    add_path("last_adapter", outcome.last_adapter);
    add_path("best_adapter", outcome.best_adapter);
    add_path("last_query_adapter", outcome.last_query_adapter);
    add_path("best_query_adapter", outcome.best_query_adapter);
    if (!outcome.next_command.empty()) json["next_command"] = outcome.next_command;
    print_json(json);
    return;
  }
  std::cout << outcome.steps << " steps on " << outcome.data.sequences << " sequences in "
            << format_duration(outcome.seconds) << ", loss " << outcome.train_loss << "\n";
  for (const auto& [name, value] : outcome.eval_figures) {
    std::cout << "evaluation " << name << ": " << value << "\n";
  }
  if (!outcome.best_adapter.empty()) {
    std::cout << "adapter: " << outcome.best_adapter.string() << "\n";
  }
  if (!outcome.best_query_adapter.empty()) {
    std::cout << "query adapter: " << outcome.best_query_adapter.string() << "\n";
  }
  if (!outcome.next_command.empty()) {
    std::cout << "the encoder changed for passages too; an index that fits is made by\n  "
              << outcome.next_command << "\n";
  }
}

void finetune(const FinetuneArguments& arguments, CommandContext& context) {
  if (arguments.list_fields) return print_fields(arguments.as_json);
  const FinetuneConfig config = resolve(arguments);
  const auto group = join_process_group();
  const bool speaks = group == nullptr || group->rank() == 0;
  const bool draws = isatty(STDERR_FILENO) != 0;
  const auto progress =
      context.quiet || !speaks
          ? std::make_unique<SilentProgress>()
          : make_progress(std::cerr, draws ? ProgressStyle::kTerminal : ProgressStyle::kLines);
  FinetuneRun run(config, group.get());
  if (arguments.dry_run) {
    const FinetunePlan plan = run.plan();
    if (speaks && arguments.as_json) print_json(to_json(config, plan));
    if (speaks && !arguments.as_json) std::cout << to_yaml(config) << "\n" << to_text(plan);
    return;
  }
  const FinetuneOutcome outcome = run.train(arguments.resume, make_events(context, *progress));
  progress->finish();
  if (speaks) report(outcome, arguments.as_json);
}

}  // namespace

void add_finetune_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<FinetuneArguments>();
  CLI::App* command = app.add_subcommand(
      "finetune", "Train a LoRA adapter on the frozen base model with your own questions");
  command->footer(kFooter);
  command
      ->add_option("--config", arguments->config_files,
                   "Configuration: our YAML, PEFT's adapter_config.json or Ludwig's YAML")
      ->take_all()
      ->expected(1);
  command->add_option("--train", arguments->train, "Training data: files or folders");
  command->add_option("--eval", arguments->eval, "Data for the evaluation loss");
  // Fields that are used often, under short names.
  const std::vector<std::pair<std::string, std::string>> flags = {
      {"--recipe", "recipe"},
      {"--model", "model.path"},
      {"--load-in", "model.load_in"},
      {"--format", "data.format"},
      {"--passages", "passages.mode"},
      {"--index", "passages.index"},
      {"--top-k", "passages.top_k"},
      {"--rank", "adapter.r"},
      {"--alpha", "adapter.lora_alpha"},
      {"--epochs", "training.epochs"},
      {"--max-steps", "training.max_steps"},
      {"--batch-size", "training.batch_size"},
      {"--learning-rate", "training.learning_rate"},
      {"--seed", "training.seed"},
      {"--threads", "training.threads"},
      {"--out", "output_dir"}};
  for (const auto& [flag, field] : flags) {
    for (const ConfigField& known : config_fields()) {
      if (known.name != field) continue;
      const std::string help =
          known.help + (known.default_text.empty() ? "" : " [" + known.default_text + "]");
      command->add_option_function<std::string>(
          flag,
          [arguments, name = field](const std::string& text) { arguments->named[name] = text; },
          help);
    }
  }
  command->add_option("--set", arguments->set, "Any field of the configuration: name=value")
      ->take_all();
  command->add_flag("--resume", arguments->resume, "Continue from the latest checkpoint");
  command->add_flag("--dry-run", arguments->dry_run,
                    "Show the configuration, the counts and the first sequences, and stop");
  command->add_flag("--fields", arguments->list_fields, "List every field of the configuration");
  command->add_flag("--json", arguments->as_json, "Print JSON");
  add_finetune_estimate_command(*command);
  command->callback([arguments, command, &context] {
    if (command->get_subcommands().empty()) finetune(*arguments, context);
  });
}

}  // namespace quarry::cli
