#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "data/core/cancel.h"
#include "data/core/json.h"

namespace quarry::cli {

// Exit statuses of the program; `quarry help exit-codes` prints this table.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,       // something of ours or of the system failed
  kExitUsage = 2,        // unknown flag or command, bad value, impossible combination
  kExitNotFound = 3,     // a named file, model, index or adapter is not there
  kExitNoAnswer = 4,     // the command worked and found nothing (search, ask)
  kExitCorrupt = 5,      // a file does not hold what its format promises
  kExitUnavailable = 6,  // disk full, port in use, index locked by another writer
  kExitInterrupted = 130,
};

// What a subcommand's callback returns through.
struct CommandContext {
  CancelFlag* cancel = nullptr;  // set by the first Ctrl-C; a second one ends the process at once
  bool quiet = false;            // no progress, no hints
  int exit_code = kExitOk;
};

// Each adds one subcommand (one file each) to `app`. The context outlives the parse.
void add_index_command(CLI::App& app, CommandContext& context);
void add_search_command(CLI::App& app, CommandContext& context);
void add_ask_command(CLI::App& app, CommandContext& context);
void add_generate_command(CLI::App& app, CommandContext& context);
void add_classify_command(CLI::App& app, CommandContext& context);
void add_serve_command(CLI::App& app, CommandContext& context);
void add_eval_command(CLI::App& app, CommandContext& context);
void add_finetune_command(CLI::App& app, CommandContext& context);
void add_adapter_command(CLI::App& app, CommandContext& context);
void add_model_command(CLI::App& app, CommandContext& context);
void add_doctor_command(CLI::App& app, CommandContext& context);
void add_completion_command(CLI::App& app, CommandContext& context);

// Prints one JSON document and a newline to standard output.
void print_json(const OrderedJson& value);

// The program. Returns the exit status; never throws.
int run(int argc, const char* const* argv);

}  // namespace quarry::cli
