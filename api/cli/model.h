#pragma once

#include <CLI/CLI.hpp>

namespace quarry::cli {

// Adds `quarry model quantize`.
void add_model_quantize_command(CLI::App& model);
// Adds `quarry model estimate`.
void add_model_estimate_command(CLI::App& model);

}  // namespace quarry::cli
