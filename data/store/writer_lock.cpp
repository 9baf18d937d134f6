#include "data/store/writer_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "data/core/error.h"

namespace quarry {
namespace {

std::string read_holder(int file) {
  std::array<char, 32> text{};
  const ssize_t n = ::pread(file, text.data(), text.size() - 1, 0);
  std::string holder(text.data(), n > 0 ? static_cast<size_t>(n) : 0);
  while (!holder.empty() && (holder.back() < '0' || holder.back() > '9')) holder.pop_back();
  return holder.empty() ? "another process" : "process " + holder;
}

}  // namespace

WriterLock::WriterLock(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "writer.lock";
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  QUARRY_CHECK(file_ >= 0, ErrorCode::kUnavailable, path.string(),
               ": cannot open for writing: ", std::strerror(errno));
  if (::flock(file_, LOCK_EX | LOCK_NB) != 0) {
    const int failure = errno;
    const std::string holder = read_holder(file_);
    ::close(file_);
    QUARRY_CHECK(failure == EWOULDBLOCK, ErrorCode::kUnavailable, path.string(),
                 ": cannot lock: ", std::strerror(failure));
    throw_error(ErrorCode::kUnavailable, folder.string(), ": ", holder,
                " is writing to this index: wait for it or stop it");
  }
  // Only for the message above: that the number is not written on a full disk does no harm.
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(file_, 0) == 0 && ::pwrite(file_, pid.data(), pid.size(), 0) < 0) errno = 0;
}

WriterLock::~WriterLock() { ::close(file_); }

}  // namespace quarry
