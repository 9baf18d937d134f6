#include "data/core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "data/core/error.h"

namespace quarry {

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const bool is_absent = errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG;
    const ErrorCode code = is_absent ? ErrorCode::kNotFound : ErrorCode::kUnavailable;
    throw_error(code, path.string(), ": cannot open: ", std::strerror(errno));
  }
  struct stat info = {};
  const int stat_result = ::fstat(fd, &info);
  if (stat_result != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw_error(ErrorCode::kInvalidArgument, path.string(), ": not a regular file");
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* mapping = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int map_errno = errno;
    ::close(fd);
    QUARRY_CHECK(mapping != MAP_FAILED, ErrorCode::kUnavailable, path.string(), ": cannot map ",
                 size_, " bytes: ", std::strerror(map_errno));
    data_ = static_cast<const uint8_t*>(mapping);
  } else {
    ::close(fd);
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::forget(const uint8_t* data, size_t size) const {
  // Whole pages only: those at the ends hold neighbours.
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = (static_cast<size_t>(data - data_) + page - 1) / page * page;
  const size_t end = static_cast<size_t>(data - data_) + size;
  if (begin < end / page * page) {
    ::madvise(const_cast<uint8_t*>(data_) + begin, end / page * page - begin, MADV_DONTNEED);
  }
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

}  // namespace quarry
