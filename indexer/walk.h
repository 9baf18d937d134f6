#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "indexer/readers/reader.h"

namespace quarry {

struct WalkOptions {
  // Shell patterns (*, ?, [..]; * also crosses "/"), matched against the path below the root and
  // against the file's name; with a "/" before it against that path alone. Files must match one of
  // `include` (empty: all) and none of `exclude`; a folder that matches `exclude` is not entered.
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  std::filesystem::path index_folder;  // never entered
};

struct FoundFile {
  std::filesystem::path path;  // absolute, lexically normal
  int64_t bytes = 0;
};

// Files under `root` (a folder, or one file) in path order. Names that begin with a dot are left
// out below the root. Symbolic links are followed; a folder that was entered before is not entered
// again, so loops end. What cannot be read goes to on_skip. Throws kNotFound when `root` is
// missing.
std::vector<FoundFile> walk(const std::filesystem::path& root, const WalkOptions& options,
                            const std::function<void(Skip&&)>& on_skip);

// Whether walk() would come to `path`, a file below `root`, if it is there.
bool is_walked(const std::filesystem::path& root, const WalkOptions& options,
               const std::filesystem::path& path);

// Absolute and lexically normal, without a trailing slash.
std::filesystem::path normal_path(const std::filesystem::path& path);

}  // namespace quarry
