#include "api/cli/eval.h"

#include <cstdio>

#include "data/datasets/dataset.h"

namespace quarry::cli {

OrderedJson to_json(const Estimate& estimate) {
  return {{"mean", estimate.mean}, {"low", estimate.low}, {"high", estimate.high}};
}

void print_estimate(const std::string& name, const Estimate& estimate) {
  std::printf("  %-10s %8.4f   [%.4f, %.4f]\n", name.c_str(), estimate.mean, estimate.low,
              estimate.high);
}

std::string dataset_names_help() {
  std::string help = "Format of QUESTIONS: auto";
  for (const DatasetReader& reader : dataset_readers()) help += std::string(", ") + reader.name;
  return help;
}

void add_eval_command(CLI::App& app, CommandContext& context) {
  CLI::App* eval = app.add_subcommand("eval", "Measure retrieval and answers");
  eval->require_subcommand(1);
  add_eval_retrieval_command(*eval, context);
  add_eval_answers_command(*eval, context);
}

}  // namespace quarry::cli
