#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "api/cli/command.h"
#include "data/metrics/bootstrap.h"

namespace quarry::cli {

// Shared by the eval subcommands.
void add_eval_retrieval_command(CLI::App& eval, CommandContext& context);
void add_eval_answers_command(CLI::App& eval, CommandContext& context);

OrderedJson to_json(const Estimate& estimate);
void print_estimate(const std::string& name, const Estimate& estimate);
// Help text of --dataset: every reader's name.
std::string dataset_names_help();

}  // namespace quarry::cli
