#include "indexer/walk.h"

#include <fnmatch.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "data/core/error.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

bool matches(const std::vector<std::string>& patterns, const fs::path& below_root,
             const fs::path& path) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    const std::string from_root = (pattern[0] == '/' ? "/" : "") + below_root.string();
    return ::fnmatch(pattern.c_str(), from_root.c_str(), 0) == 0 ||
           ::fnmatch(pattern.c_str(), path.filename().c_str(), 0) == 0;
  });
}

class Walker {
 public:
  Walker(fs::path root, const WalkOptions& options, const std::function<void(Skip&&)>& on_skip)
      : root_(std::move(root)), options_(options), on_skip_(on_skip) {}

  std::vector<FoundFile> run() {
    struct stat info = {};
    QUARRY_CHECK(::stat(root_.c_str(), &info) == 0, ErrorCode::kNotFound, root_.string(), ": ",
                 std::strerror(errno));
    visit(root_);
    return std::move(files_);
  }

 private:
  void visit(const fs::path& path) {
    struct stat info = {};
    if (::stat(path.c_str(), &info) != 0) {
      skip(path, SkipKind::kUnreadable, std::strerror(errno));
    } else if (S_ISDIR(info.st_mode)) {
      if (path == options_.index_folder) return;
      if (entered_.insert({info.st_dev, info.st_ino}).second) visit_folder(path);
    } else if (S_ISREG(info.st_mode)) {
      visit_file(path, info.st_size);
    } else {
      skip(path, SkipKind::kUnsupported, "not a regular file");
    }
  }

  void visit_file(const fs::path& path, int64_t bytes) {
    const fs::path below = path.lexically_relative(root_);
    if (!options_.include.empty() && !matches(options_.include, below, path)) return;
    if (path != root_ && matches(options_.exclude, below, path)) return;
    files_.push_back({path, bytes});
  }

  void visit_folder(const fs::path& path) {
    std::vector<fs::path> entries;
    std::error_code failure;
    fs::directory_iterator entry(path, failure);
    for (; !failure && entry != fs::directory_iterator(); entry.increment(failure)) {
      if (entry->path().filename().string()[0] != '.') entries.push_back(entry->path());
    }
    if (failure) skip(path, SkipKind::kUnreadable, failure.message());
    std::sort(entries.begin(), entries.end());
    for (const fs::path& child : entries) {
      if (!options_.exclude.empty() &&
          matches(options_.exclude, child.lexically_relative(root_), child)) {
        continue;
      }
      visit(child);
    }
  }

  void skip(const fs::path& path, SkipKind kind, const std::string& reason) {
    on_skip_({kind, path.string(), reason});
  }

  fs::path root_;
  const WalkOptions& options_;
  const std::function<void(Skip&&)>& on_skip_;
  std::set<std::pair<dev_t, ino_t>> entered_;
  std::vector<FoundFile> files_;
};

}  // namespace

fs::path normal_path(const fs::path& path) {
  fs::path normal = fs::absolute(path).lexically_normal();
  if (!normal.has_filename() && normal != normal.root_path()) normal = normal.parent_path();
  return normal;
}

bool is_walked(const fs::path& root, const WalkOptions& options, const fs::path& path) {
  const fs::path below = path.lexically_relative(root);
  fs::path place;
  for (const fs::path& name : below) {
    place /= name;
    if (name.string()[0] == '.' || root / place == options.index_folder) return path == root;
    if (matches(options.exclude, place, root / place)) return false;
  }
  return options.include.empty() || matches(options.include, below, path);
}

std::vector<FoundFile> walk(const fs::path& root, const WalkOptions& options,
                            const std::function<void(Skip&&)>& on_skip) {
  return Walker(normal_path(root), options, on_skip).run();
}

}  // namespace quarry
