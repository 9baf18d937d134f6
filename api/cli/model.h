#pragma once

#include <CLI/CLI.hpp>

namespace quarry::cli {

struct CommandContext;  // api/cli/command.h

// Adds `quarry model quantize`.
void add_model_quantize_command(CLI::App& model, CommandContext& context);
// Adds `quarry model estimate`.
void add_model_estimate_command(CLI::App& model);

}  // namespace quarry::cli
