#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "api/cli/command.h"

int main(int argc, char** argv) {
  // The default logger writes to stdout, which is for results.
  spdlog::set_default_logger(spdlog::stderr_logger_mt("quarry"));
  return quarry::cli::run(argc, argv);
}
