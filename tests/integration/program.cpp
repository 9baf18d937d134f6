#include "tests/integration/program.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "generator/weights/model_catalog.h"

extern char** environ;

namespace quarry::testing {
namespace {

std::string read_all(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

ProgramResult run_quarry(const std::vector<std::string>& arguments) {
  return run_quarry(arguments, {});
}

ProgramResult run_quarry(const std::vector<std::string>& arguments,
                         const std::vector<std::string>& environment) {
  return StartedProgram(arguments, environment).wait();
}

std::string program_path() { return QUARRY_PROGRAM; }

StartedProgram::StartedProgram(const std::vector<std::string>& arguments,
                               const std::vector<std::string>& environment)
    : folder_(std::make_unique<TemporaryFolder>()) {
  const std::string output = (folder_->path() / "out").string();
  const std::string errors = (folder_->path() / "err").string();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, errors.c_str(), O_WRONLY | O_CREAT, 0600);

  std::vector<std::string> words = {QUARRY_PROGRAM};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::vector<std::string> extra = environment;
  std::vector<char*> envp;
  for (std::string& entry : extra) envp.push_back(entry.data());
  for (char** entry = environ; *entry != nullptr; ++entry) envp.push_back(*entry);
  envp.push_back(nullptr);

  const int spawned =
      posix_spawn(&pid_, QUARRY_PROGRAM, &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) throw std::runtime_error("cannot start " QUARRY_PROGRAM);
}

StartedProgram::~StartedProgram() {
  if (pid_ == 0) return;
  send(SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void StartedProgram::send(int signal) const { kill(pid_, signal); }

ProgramResult StartedProgram::wait() {
  int status = 0;
  waitpid(std::exchange(pid_, 0), &status, 0);
  ProgramResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.output = read_all(folder_->path() / "out");
  result.errors = read_all(folder_->path() / "err");
  return result;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "quarry-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path TemporaryFolder::write(const std::string& name,
                                             const std::string& text) const {
  const std::filesystem::path file = path_ / name;
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
  return file;
}

bool default_models_installed() {
  int found = 0;
  for (const ModelLocation& model : installed_models()) {
    found += model.name == kDefaultGenerator || model.name == kDefaultEmbedder ? 1 : 0;
  }
  return found == 2;
}

}  // namespace quarry::testing
