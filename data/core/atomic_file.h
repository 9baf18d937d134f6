#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace quarry {

// Who may read a file that we write.
enum class FileAccess { kAll, kOwner };

// A file written bit by bit under a temporary name beside its place. commit() fsyncs it, renames it
// there and fsyncs the folder, so a reader sees the old or the new file and never a mix. One
// thread.
class AtomicFile {
 public:
  // Throws kUnavailable when nothing can be written beside `path`.
  explicit AtomicFile(const std::filesystem::path& path, FileAccess access = FileAccess::kAll);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  // Removes the temporary file when there was no commit().
  ~AtomicFile();

  // Both throw kUnavailable when the disk refuses.
  void write(const void* bytes, size_t count);
  void commit();
  int64_t size() const { return size_; }  // written so far

 private:
  [[noreturn]] void fail(int error) const;

  std::filesystem::path path_;
  FileAccess access_;
  std::string temporary_;
  int fd_ = -1;
  int64_t size_ = 0;
};

}  // namespace quarry
