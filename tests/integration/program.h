#pragma once

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace quarry::testing {

struct ProgramResult {
  int exit_code = -1;  // 128 + signal when killed
  std::string output;  // standard output
  std::string errors;  // standard error
};

// Runs the built `quarry` with these arguments and waits. Standard input is empty.
ProgramResult run_quarry(const std::vector<std::string>& arguments);

// The same with extra environment entries "NAME=value".
ProgramResult run_quarry(const std::vector<std::string>& arguments,
                         const std::vector<std::string>& environment);

// Of the built `quarry`, for a shell.
std::string program_path();

// A new empty folder, removed with everything in it when the object goes.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  // Writes a file inside, making its folders; returns its path.
  std::filesystem::path write(const std::string& name, const std::string& text) const;

 private:
  std::filesystem::path path_;
};

// The built `quarry` while it runs. Killed, if it still does, when the object goes.
class StartedProgram {
 public:
  // Environment entries "NAME=value" come before those of this process.
  StartedProgram(const std::vector<std::string>& arguments,
                 const std::vector<std::string>& environment);
  ~StartedProgram();
  StartedProgram(const StartedProgram&) = delete;
  StartedProgram& operator=(const StartedProgram&) = delete;
  void send(int signal) const;
  ProgramResult wait();

 private:
  std::unique_ptr<TemporaryFolder> folder_;
  pid_t pid_ = 0;  // 0: it was waited for
};

// Whether both default models are installed.
bool default_models_installed();

}  // namespace quarry::testing
