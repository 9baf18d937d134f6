#pragma once

#include <CLI/CLI.hpp>

namespace quarry::cli {

// Adds `quarry model quantize`.
void add_model_quantize_command(CLI::App& model);

}  // namespace quarry::cli
