#pragma once

#include <filesystem>
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

// Whether both default models are installed.
bool default_models_installed();

}  // namespace quarry::testing
