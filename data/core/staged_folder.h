#pragma once

#include <filesystem>

namespace quarry {

// A folder that appears whole or not at all: filled under a temporary name beside its place, then
// renamed there. One thread.
class StagedFolder {
 public:
  // Makes the temporary folder, and the parents of `target`. Throws kUnavailable.
  explicit StagedFolder(const std::filesystem::path& target);
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;
  // Removes the temporary folder when there was no commit().
  ~StagedFolder();

  // Where to write; on the same file system as the target.
  const std::filesystem::path& path() const { return path_; }
  // Puts the folder in its place. One that was there is exchanged with it in one step, then
  // removed; on file systems that cannot exchange there is a moment with neither. Throws
  // kUnavailable.
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path path_;
};

}  // namespace quarry
