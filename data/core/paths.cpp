#include "data/core/paths.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "data/core/error.h"

namespace quarry {

std::filesystem::path quarry_home() {
  if (const char* home = std::getenv("QUARRY_HOME"); home != nullptr && *home != '\0') return home;
  const char* user_home = std::getenv("HOME");
  QUARRY_CHECK(user_home != nullptr && *user_home != '\0', ErrorCode::kInvalidArgument,
               "neither QUARRY_HOME nor HOME is set: cannot tell where models live");
  return std::filesystem::path(user_home) / ".local" / "share" / "quarry";
}

void write_file_atomically(const std::filesystem::path& path, const std::string& bytes) {
  const std::filesystem::path folder =
      path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  std::string temporary = (folder / (path.filename().string() + ".tmp.XXXXXX")).string();
  const int fd = ::mkostemp(temporary.data(), O_CLOEXEC);
  QUARRY_CHECK(fd >= 0, ErrorCode::kUnavailable, path.string(),
               ": cannot write beside it: ", std::strerror(errno));
  size_t written = 0;
  bool ok = true;
  while (ok && written < bytes.size()) {
    const ssize_t n = ::write(fd, bytes.data() + written, bytes.size() - written);
    if (n < 0 && errno == EINTR) continue;
    ok = n > 0;
    if (ok) written += static_cast<size_t>(n);
  }
  ok = ok && ::fchmod(fd, 0644) == 0 && ::fsync(fd) == 0;
  int failure = errno;
  ::close(fd);
  if (ok && ::rename(temporary.c_str(), path.c_str()) != 0) {
    ok = false;
    failure = errno;
  }
  if (!ok) {
    ::unlink(temporary.c_str());
    throw_error(ErrorCode::kUnavailable, path.string(), ": cannot write ", bytes.size(),
                " bytes: ", std::strerror(failure));
  }
  const int folder_fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd >= 0) {
    ::fsync(folder_fd);
    ::close(folder_fd);
  }
}

}  // namespace quarry
