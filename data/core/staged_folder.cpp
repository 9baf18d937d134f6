#include "data/core/staged_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "data/core/error.h"
#include "data/core/sync_to_disk.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

// "a/b/" and "a/b" name the same folder.
fs::path without_slash(const fs::path& path) {
  const fs::path absolute = fs::absolute(path).lexically_normal();
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

}  // namespace

StagedFolder::StagedFolder(const fs::path& target) : target_(without_slash(target)) {
  std::error_code error;
  fs::create_directories(target_.parent_path(), error);
  std::string name = target_.string() + ".tmp.XXXXXX";
  QUARRY_CHECK(!error && ::mkdtemp(name.data()) != nullptr, ErrorCode::kUnavailable,
               target.string(), ": cannot make a folder beside it: ",
               error ? error.message() : std::string(std::strerror(errno)));
  path_ = name;
  ::chmod(name.c_str(), 0755);
}

StagedFolder::~StagedFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

void StagedFolder::commit() {
  sync_folder(path_);
  std::error_code error;
  bool moved = ::rename(path_.c_str(), target_.c_str()) == 0;  // absent or empty target
  if (moved) {
    path_.clear();
  } else if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) ==
             0) {
    moved = true;  // path_ now holds the old folder, which the destructor removes
  } else if (errno == EINVAL || errno == ENOSYS) {
    const fs::path old = path_.string() + ".old";
    fs::rename(target_, old, error);
    if (!error) fs::rename(path_, target_, error);
    moved = !error;
    if (moved) path_ = old;
  }
  QUARRY_CHECK(moved, ErrorCode::kUnavailable, target_.string(),
               ": cannot put the new folder there: ",
               error ? error.message() : std::string(std::strerror(errno)));
  sync_folder(target_.parent_path());
}

}  // namespace quarry
