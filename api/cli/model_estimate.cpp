#include <cstdio>
#include <iostream>
#include <limits>
#include <memory>

#include "api/cli/command.h"
#include "api/cli/model.h"
#include "api/cli/options.h"
#include "data/core/system_memory.h"
#include "generator/adapters/model_file.h"
#include "generator/models/generator_memory.h"
#include "generator/weights/bnb_tensors.h"

namespace quarry::cli {
namespace {

struct EstimateArguments {
  std::string model;
  std::string precision = "fast";
  std::string load_in = "as-is";
  GeneratorMemoryOptions options;
  bool as_json = false;
};

void print(const GeneratorMemory& memory, int64_t available) {
  const std::pair<const char*, int64_t> parts[] = {
      {"weights", memory.weight_bytes},   {"keys and values", memory.cache_bytes},
      {"a step", memory.step_bytes},      {"program and tokenizer", memory.program_bytes},
      {"estimated peak", memory.total()},
  };
  for (const auto& [name, bytes] : parts) {
    std::printf("%-22s %10.1f MB\n", name, static_cast<double>(bytes) / 1e6);
  }
  if (available == std::numeric_limits<int64_t>::max()) return;
  std::printf("%-22s %10.1f MB%s\n", "available here", static_cast<double>(available) / 1e6,
              memory.total() <= available
                  ? ""
                  : ": weights would lie on the disk and stream through memory (--offload)");
}

void estimate(const EstimateArguments& arguments) {
  const auto file = ModelFile::open(resolve_model(arguments.model));
  CausalLmSource source = file->source();
  source.weights.load_in = parse_load_in(arguments.load_in);
  if (source.config != nullptr && source.weights.load_in == LoadIn::kAsIs) {
    source.weights.load_in =
        configured_load_in(*source.config, *source.tensors, source.description);
  }
  GeneratorMemoryOptions options = arguments.options;
  options.precision = parse_precision(arguments.precision);
  const GeneratorMemory memory = estimate_generator_memory(file->family(), source, options);
  const int64_t available = available_memory();
  if (!arguments.as_json) return print(memory, available);
  OrderedJson json;
  json["weight_bytes"] = memory.weight_bytes;
  json["cache_bytes"] = memory.cache_bytes;
  json["step_bytes"] = memory.step_bytes;
  json["program_bytes"] = memory.program_bytes;
  json["total_bytes"] = memory.total();
  json["available_bytes"] = available;
  print_json(json);
}

}  // namespace

void add_model_estimate_command(CLI::App& model) {
  auto arguments = std::make_shared<EstimateArguments>();
  CLI::App* command = model.add_subcommand(
      "estimate", "Tell how much memory generating takes, without loading the model");
  command->add_option("MODEL", arguments->model, "Short name, Hugging Face folder or .gguf file")
      ->required();
  add_precision_flag(*command, arguments->precision);
  add_load_in_flag(*command, arguments->load_in);
  command
      ->add_option("--tokens", arguments->options.tokens_per_sequence,
                   "Of each sequence, prompt and answer (default: the model's whole context)")
      ->check(kPositive);
  command->add_option("--sequences", arguments->options.sequences, "That run together")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->footer(
      "Without adapters and the prefix cache of `quarry serve`.\n\n"
      "Examples\n"
      "  quarry model estimate smollm2-135m-instruct --tokens 2048\n"
      "  quarry model estimate ~/models/my-llama --load-in nf4 --sequences 8 --json");
  command->callback([arguments] { estimate(*arguments); });
}

}  // namespace quarry::cli
