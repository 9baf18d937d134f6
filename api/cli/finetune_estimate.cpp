#include <cstdio>
#include <iostream>
#include <memory>

#include "api/cli/finetune.h"
#include "data/core/error.h"
#include "finetune/config_readers.h"
#include "finetune/estimate.h"

namespace quarry::cli {
namespace {

struct EstimateArguments {
  std::vector<std::string> models;
  double device_gb = 80.0;
  double frozen_bytes = 4.0;
  int64_t rank = 8;
  std::string adapter;  // a LoraConfig in JSON; empty: rank on the family's usual targets
  bool as_json = false;
};

struct Row {
  std::string model;
  ModelShape shape;
  FrameworkEstimate full;
  FrameworkEstimate lora;
};

OrderedJson to_json(const FrameworkEstimate& estimate) {
  OrderedJson json;
  json["trainable_parameters"] = estimate.count.trainable;
  json["weight_bytes"] = estimate.weight_bytes;
  json["training_bytes"] = estimate.training_bytes;
  json["allowance_bytes"] = estimate.allowance_bytes;
  json["total_bytes"] = estimate.total_bytes;
  json["fits"] = estimate.fits;
  return json;
}

std::string cell(const FrameworkEstimate& estimate) {
  return format_bytes(estimate.total_bytes) + (estimate.fits ? "" : " (OOM)");
}

void estimate(const EstimateArguments& arguments) {
  LoraSettings adapter;
  adapter.r = arguments.rank;
  if (!arguments.adapter.empty()) adapter = load_peft_settings(arguments.adapter);
  std::vector<Row> rows;
  for (const std::string& model : arguments.models) {
    Row row;
    row.model = model;
    row.shape = find_model_shape(model);
    FrameworkOptions options;
    options.device_bytes = arguments.device_gb * 1e9;
    options.frozen_parameter_bytes = arguments.frozen_bytes;
    options.adapter = adapter;
    options.method = TuningMethod::kFull;
    row.full = estimate_framework(row.shape, options);
    options.method = TuningMethod::kLora;
    row.lora = estimate_framework(row.shape, options);
    rows.push_back(std::move(row));
  }
  if (arguments.as_json) {
    OrderedJson json = OrderedJson::array();
    for (const Row& row : rows) {
      OrderedJson object;
      object["model"] = row.model;
      object["parameters"] = row.shape.num_parameters;
      object["full"] = to_json(row.full);
      object["lora"] = to_json(row.lora);
      json.push_back(std::move(object));
    }
    print_json(json);
    return;
  }
  std::printf("%-24s %16s %20s %20s\n", "model", "parameters", "full fine-tuning", "LoRA");
  for (const Row& row : rows) {
    std::printf("%-24s %16lld %20s %20s\n", row.model.c_str(),
                static_cast<long long>(row.shape.num_parameters), cell(row.full).c_str(),
                cell(row.lora).c_str());
    std::printf("  %s\n", format_trainable(row.lora.count).c_str());
  }
}

std::string known_names() {
  std::string names;
  for (const std::string& name : known_model_names()) names += (names.empty() ? "" : ", ") + name;
  return names;
}

}  // namespace

void add_finetune_estimate_command(CLI::App& finetune) {
  auto arguments = std::make_shared<EstimateArguments>();
  CLI::App* command = finetune.add_subcommand(
      "estimate",
      "Memory of tuning a model with a framework in float32, from its config.json alone");
  command
      ->add_option("--config", arguments->models,
                   "Model folder, config.json or one of: " + known_names())
      ->required();
  command->add_option("--device-gb", arguments->device_gb, "Memory of the device")
      ->capture_default_str();
  command
      ->add_option("--frozen-bytes", arguments->frozen_bytes,
                   "Bytes of a frozen parameter: 4 float32, 2 bf16, 0.52 NF4")
      ->capture_default_str();
  command->add_option("--rank", arguments->rank, "r of LoRA on the family's usual targets")
      ->capture_default_str();
  command->add_option("--adapter", arguments->adapter,
                      "PEFT's adapter_config.json: what it would train is counted, exactly");
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->footer(
      "Examples\n"
      "  quarry finetune estimate --config T0_3B mt0-xxl bloomz-7b1\n"
      "  quarry finetune estimate --config ~/models/my-llama --device-gb 24\n"
      "  quarry finetune estimate --config flan-t5-base --adapter adapter_config.json\n"
      "What a run of our own takes is part of `quarry finetune --dry-run`.");
  command->callback([arguments, &finetune] {
    arguments->as_json |= finetune.count("--json") > 0;  // before the verb
    estimate(*arguments);
  });
}

}  // namespace quarry::cli
