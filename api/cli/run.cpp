#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "api/cli/command.h"
#include "data/core/closest_name.h"
#include "data/core/error.h"
#include "data/core/parallel_for.h"

namespace quarry::cli {
namespace {

constexpr const char* kVersion = QUARRY_VERSION;

constexpr const char* kExitCodesHelp = R"(Exit statuses
  0    done
  1    failed: a bug of ours or a failure of the system
  2    wrong usage: unknown flag or command, bad value
  3    not found: a named file, model, index or adapter
  4    worked, but found nothing (search, ask)
  5    corrupt: a file does not hold what its format promises
  6    unavailable for now: disk full, port in use, index locked by another writer
  130  interrupted by Ctrl-C; what was committed stays)";

CancelFlag g_cancel;

// First Ctrl-C (or SIGTERM): ask the work to end; second: end at once.
void on_interrupt(int) {
  if (g_cancel.cancelled()) _exit(kExitInterrupted);
  g_cancel.cancel();
}

void install_signal_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
}

// A standard stream that is closed would have its number taken by the next file that is opened,
// and what is printed would go there.
void open_standard_streams() {
  while (true) {
    const int fd = ::open("/dev/null", O_RDWR);
    if (fd > STDERR_FILENO || fd < 0) {
      if (fd >= 0) ::close(fd);
      return;
    }
  }
}

// Why results could not be written; empty when they were, or when who read them left ("| head").
std::string lost_output() {
  errno = 0;
  std::cout.flush();
  const bool is_written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0 && std::cout.good();
  const int reason = errno;
  struct stat info = {};
  if (is_written || ::fstat(STDOUT_FILENO, &info) != 0) return "";
  if (S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode)) return "";
  return reason != 0 ? std::strerror(reason) : "an earlier write failed";
}

// Of a path that the library met where it expected nothing odd: a name too long, a circle of links.
ExitCode report(const std::filesystem::filesystem_error& error) {
  std::cerr << "error: " << error.path1().string() << ": " << error.code().message() << "\n";
  const std::error_code& code = error.code();
  if (code == std::errc::no_such_file_or_directory) return kExitNotFound;
  const bool is_odd = code == std::errc::filename_too_long || code == std::errc::not_a_directory ||
                      code == std::errc::too_many_symbolic_link_levels;
  return is_odd ? kExitUsage : kExitUnavailable;
}

ExitCode exit_code_of(const Error& error) {
  switch (error.code()) {
    case ErrorCode::kInvalidArgument:
      return kExitUsage;
    case ErrorCode::kNotFound:
      return kExitNotFound;
    case ErrorCode::kCorruptData:
      return kExitCorrupt;
    case ErrorCode::kUnavailable:
      return kExitUnavailable;
    case ErrorCode::kInternal:
      return kExitFailed;
  }
  return kExitFailed;
}

// The subcommand that the words on the command line reached.
const CLI::App* deepest_subcommand(const CLI::App& app) {
  const CLI::App* current = &app;
  while (!current->get_subcommands().empty()) current = current->get_subcommands().front();
  return current;
}

// What could have been meant at the place where parsing stopped; empty when nothing is near.
std::string suggestion(const CLI::App& app, const std::string& word) {
  const CLI::App* command = deepest_subcommand(app);
  std::vector<std::string> candidates;
  if (word.rfind("-", 0) == 0) {
    for (const CLI::Option* option : command->get_options()) {
      for (const std::string& name : option->get_lnames()) candidates.push_back("--" + name);
    }
  } else {
    for (const CLI::App* subcommand : command->get_subcommands({})) {
      candidates.push_back(subcommand->get_name());
    }
  }
  const std::optional<size_t> meant = closest_name(word, candidates);
  return meant ? candidates[*meant] : "";
}

int report_usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = deepest_subcommand(app);
  std::string name = "quarry";
  std::string path;
  for (const CLI::App* a = command; a != nullptr && a->get_parent() != nullptr;
       a = a->get_parent()) {
    path = " " + a->get_name() + path;
  }
  name += path;
  const std::vector<std::string> extras = app.remaining(true);
  if (!extras.empty()) {
    const bool flag = extras.front().rfind("-", 0) == 0;
    std::cerr << "error: unknown " << (flag ? "flag" : "command or argument") << " '"
              << extras.front() << "' for " << name << "\n";
    const std::string meant = suggestion(app, extras.front());
    if (!meant.empty()) std::cerr << "help: did you mean '" << meant << "'?\n";
  } else {
    std::cerr << "error: " << name << ": " << error.what() << "\n";
  }
  std::cerr << "help: " << name << " --help shows what it takes\n";
  return kExitUsage;
}

void add_help_topics(CLI::App& app) {
  CLI::App* help = app.add_subcommand("help", "This help, or a topic: exit-codes");
  CLI::App* exit_codes = help->add_subcommand("exit-codes", "What the exit statuses mean");
  exit_codes->callback([] { std::cout << kExitCodesHelp << "\n"; });
  help->require_subcommand(0, 1);
  help->callback([&app, help] {
    if (!help->get_subcommands().empty()) return;
    std::cout << app.get_formatter()->make_help(&app, app.get_name(), CLI::AppFormatMode::Normal);
  });
}

int guarded(CommandContext& context, const std::function<void()>& work) {
  try {
    work();
    const std::string lost = lost_output();
    if (lost.empty()) return context.exit_code;
    std::cerr << "error: standard output: cannot write: " << lost << "\n";
    return kExitUnavailable;
  } catch (const Error& error) {
    if (g_cancel.cancelled()) {
      std::cerr << "interrupted: " << error.what() << "\n";
      return kExitInterrupted;
    }
    std::cerr << "error: " << error.what() << "\n";
    return exit_code_of(error);
  } catch (const std::filesystem::filesystem_error& error) {
    return report(error);
  } catch (const std::bad_alloc&) {
    std::cerr << "error: out of memory\n";
    return kExitUnavailable;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n"
              << "help: this looks like a bug; run quarry doctor and report both outputs\n";
    return kExitFailed;
  }
}

}  // namespace

void print_json(const OrderedJson& value) { std::cout << dump_json(value, 2) << "\n"; }

int run(int argc, const char* const* argv) {
  open_standard_streams();
  install_signal_handlers();
  CommandContext context;
  context.cancel = &g_cancel;

  CLI::App app(
      "Answers questions from your documents, on this machine, with sources.\n\n"
      "  quarry index build notes.idx ~/notes        make an index of a folder\n"
      "  quarry ask notes.idx \"when is the exam?\"    answer, with numbered sources\n"
      "  quarry serve notes.idx --port 8080          the same over HTTP, OpenAI-compatible",
      "quarry");
  app.set_version_flag("--version", std::string("quarry ") + kVersion);
  app.require_subcommand(1);
  app.fallthrough(true);
  app.add_flag("-q,--quiet", context.quiet, "No progress and no hints on standard error");
  app.add_option_function<int>(
         "--threads", [](int n) { set_num_threads(n); },
         "Threads for models and search (default: OMP_NUM_THREADS or all cores)")
      ->check(CLI::Range(1, 1024));
  app.footer("quarry COMMAND --help tells more, with examples.  quarry help exit-codes");

  add_index_command(app, context);
  add_search_command(app, context);
  add_ask_command(app, context);
  add_generate_command(app, context);
  add_classify_command(app, context);
  add_serve_command(app, context);
  add_eval_command(app, context);
  add_finetune_command(app, context);
  add_model_command(app, context);
  add_adapter_command(app, context);
  add_doctor_command(app, context);
  add_completion_command(app, context);
  add_help_topics(app);

  if (argc <= 1) {
    std::cout << app.help();
    return kExitUsage;
  }
  return guarded(context, [&] {
    try {
      app.parse(argc, argv);
    } catch (const CLI::Success& success) {
      app.exit(success);
    } catch (const CLI::ParseError& error) {
      context.exit_code = report_usage_error(app, error);
    }
  });
}

}  // namespace quarry::cli
