#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace quarry {

// A whole file mapped read-only. Move-only; the mapping lives as long as the object.
// Immutable after construction, so safe to read from many threads.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws kNotFound when the file is missing, kInvalidArgument when it is a folder or not a
  // regular file, kUnavailable when the system refuses. An empty file maps to size() == 0.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }
  // Takes what was read of this part out of the process's memory; it can be read again.
  void forget(const uint8_t* data, size_t size) const;

 private:
  std::filesystem::path path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace quarry
