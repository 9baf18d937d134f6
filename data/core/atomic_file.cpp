#include "data/core/atomic_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "data/core/error.h"
#include "data/core/sync_to_disk.h"

namespace quarry {
namespace {

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& path, FileAccess access)
    : path_(path),
      access_(access),
      temporary_((folder_of(path) / (path.filename().string() + ".tmp.XXXXXX")).string()) {
  fd_ = ::mkostemp(temporary_.data(), O_CLOEXEC);
  QUARRY_CHECK(fd_ >= 0, ErrorCode::kUnavailable, path.string(),
               ": cannot write beside it: ", std::strerror(errno));
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::fail(int error) const {
  throw_error(ErrorCode::kUnavailable, path_.string(), ": cannot write ", size_,
              " bytes: ", std::strerror(error));
}

void AtomicFile::write(const void* bytes, size_t count) {
  const char* at = static_cast<const char*>(bytes);
  size_ += static_cast<int64_t>(count);
  while (count > 0) {
    const ssize_t n = ::write(fd_, at, count);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(n < 0 ? errno : ENOSPC);
    at += n;
    count -= static_cast<size_t>(n);
  }
}

void AtomicFile::commit() {
  const mode_t mode = access_ == FileAccess::kOwner ? 0600 : 0644;
  if (::fchmod(fd_, mode) != 0 || ::fsync(fd_) != 0) fail(errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(errno);
  temporary_.clear();
  sync_folder(path_.parent_path());
}

}  // namespace quarry
