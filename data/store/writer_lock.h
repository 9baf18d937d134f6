#pragma once

#include <filesystem>

namespace quarry {

// The right to write to an index folder, held by one process at a time: an flock on
// `<folder>/writer.lock`, which the system drops when the process ends however it ends.
class WriterLock {
 public:
  // Throws kUnavailable naming the process that holds it, or when the folder cannot be written.
  explicit WriterLock(const std::filesystem::path& folder);
  WriterLock(const WriterLock&) = delete;
  WriterLock& operator=(const WriterLock&) = delete;
  ~WriterLock();

 private:
  int file_ = -1;
};

}  // namespace quarry
