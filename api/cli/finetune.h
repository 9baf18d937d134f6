#pragma once

#include "api/cli/command.h"

namespace quarry::cli {

// `quarry finetune estimate`.
void add_finetune_estimate_command(CLI::App& finetune);

}  // namespace quarry::cli
