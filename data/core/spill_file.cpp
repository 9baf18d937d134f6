#include "data/core/spill_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "data/core/error.h"

namespace quarry {
namespace {

int open_nameless(const std::filesystem::path& folder) {
  const int file = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file >= 0) return file;
  // Not every file system has O_TMPFILE.
  std::string path = (folder / "spill.XXXXXX").string();
  const int named = ::mkostemp(path.data(), O_CLOEXEC);
  if (named >= 0) ::unlink(path.c_str());
  return named;
}

}  // namespace

SpillFile::Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

SpillFile::Mapping& SpillFile::Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

SpillFile::Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(bytes_));
}

void SpillFile::Mapping::will_need() const {
  if (data_ == nullptr) return;
  ::madvise(const_cast<uint8_t*>(data_), static_cast<size_t>(bytes_), MADV_WILLNEED);
}

SpillFile::SpillFile(const std::filesystem::path& folder) : folder_(folder) {
  std::error_code ignored;  // what is wrong with the folder, opening the file tells
  std::filesystem::create_directories(folder, ignored);
  file_ = open_nameless(folder);
  QUARRY_CHECK(file_ >= 0, ErrorCode::kUnavailable, folder.string(),
               ": cannot make a file for weights that leave memory: ", std::strerror(errno));
}

SpillFile::~SpillFile() { ::close(file_); }

SpillFile::Mapping SpillFile::put(const uint8_t* data, int64_t bytes) {
  for (int64_t done = 0; done < bytes;) {
    const ssize_t written =
        ::pwrite(file_, data + done, static_cast<size_t>(bytes - done), bytes_ + done);
    if (written < 0 && errno == EINTR) continue;
    QUARRY_CHECK(written > 0, ErrorCode::kUnavailable, folder_.string(), ": cannot write ", bytes,
                 " bytes of weights behind ", bytes_, " others: ", std::strerror(errno));
    done += written;
  }
  void* mapped = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ, MAP_SHARED, file_, bytes_);
  QUARRY_CHECK(mapped != MAP_FAILED, ErrorCode::kUnavailable, folder_.string(), ": cannot map ",
               bytes, " bytes: ", std::strerror(errno));
  // Written out already when memory is wanted.
  ::sync_file_range(file_, bytes_, bytes, SYNC_FILE_RANGE_WRITE);
  Mapping mapping;
  mapping.data_ = static_cast<const uint8_t*>(mapped);
  mapping.bytes_ = bytes;
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  bytes_ += (bytes + page - 1) / page * page;
  return mapping;
}

}  // namespace quarry
