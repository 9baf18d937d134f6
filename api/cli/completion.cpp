#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>

#include "api/cli/command.h"

namespace quarry::cli {
namespace {

// Words that may follow each command path ("quarry", "quarry index build").
std::map<std::string, std::string> completion_words(const CLI::App& app) {
  std::map<std::string, std::string> words;
  const std::function<void(const CLI::App&, const std::string&)> visit =
      [&](const CLI::App& command, const std::string& path) {
        std::ostringstream line;
        for (const CLI::App* subcommand : command.get_subcommands({})) {
          line << subcommand->get_name() << " ";
          visit(*subcommand, path + " " + subcommand->get_name());
        }
        for (const CLI::Option* option : command.get_options()) {
          for (const std::string& name : option->get_lnames()) line << "--" << name << " ";
        }
        words[path] = line.str();
      };
  visit(app, "quarry");
  return words;
}

void print_bash(const CLI::App& app) {
  std::cout << "# bash completion for quarry:  source <(quarry completion bash)\n"
               "_quarry() {\n"
               "  local current=${COMP_WORDS[COMP_CWORD]} path=quarry words i\n"
               "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
               "    case \"$path ${COMP_WORDS[i]}\" in\n";
  const auto words = completion_words(app);
  for (const auto& [path, unused] : words) {
    if (path != "quarry") {
      std::cout << "      '" << path << "') path='" << path << "' ;;\n";
    }
  }
  std::cout << "    esac\n  done\n  case $path in\n";
  for (const auto& [path, list] : words) {
    std::cout << "    '" << path << "') words='" << list << "' ;;\n";
  }
  std::cout << "  esac\n"
               "  if [[ $current == -* || $path == quarry ]]; then\n"
               "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
               "  else\n"
               "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\") $(compgen -f -- "
               "\"$current\"))\n"
               "  fi\n"
               "}\n"
               "complete -o filenames -F _quarry quarry\n";
}

void print_fish(const CLI::App& app) {
  std::cout << "# fish completion for quarry:  quarry completion fish | source\n";
  const std::function<void(const CLI::App&, const std::string&)> visit =
      [&](const CLI::App& command, const std::string& condition) {
        for (const CLI::App* subcommand : command.get_subcommands({})) {
          std::cout << "complete -c quarry -n '" << condition << "' -f -a '"
                    << subcommand->get_name() << "'\n";
          visit(*subcommand, "__fish_seen_subcommand_from " + subcommand->get_name());
        }
        for (const CLI::Option* option : command.get_options()) {
          for (const std::string& name : option->get_lnames()) {
            std::cout << "complete -c quarry -n '" << condition << "' -l '" << name << "'\n";
          }
        }
      };
  visit(app, "__fish_use_subcommand");
}

}  // namespace

void add_completion_command(CLI::App& app, CommandContext&) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("completion", "Print a completion script for your shell");
  command->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->footer(
      "Examples\n"
      "  source <(quarry completion bash)\n"
      "  quarry completion fish > ~/.config/fish/completions/quarry.fish");
  command->callback([shell, &app] {
    if (*shell == "fish") {
      print_fish(app);
      return;
    }
    if (*shell == "zsh") std::cout << "autoload -U +X bashcompinit && bashcompinit\n";
    print_bash(app);
  });
}

}  // namespace quarry::cli
