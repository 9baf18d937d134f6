#pragma once

#include <cstdint>
#include <filesystem>

namespace quarry {

// Memory for what may be larger than the machine's: bytes in a file without a name, mapped
// read-only, which the system drops from memory and reads back as it needs. The file goes when the
// last mapping and the object have gone. put() by one thread at a time.
class SpillFile {
 public:
  class Mapping {
   public:
    Mapping() = default;
    Mapping(Mapping&& other) noexcept;
    Mapping& operator=(Mapping&& other) noexcept;
    ~Mapping();
    const uint8_t* data() const { return data_; }  // on a page's boundary; null: no mapping
    int64_t bytes() const { return bytes_; }
    // Asks the system to read all of it ahead, and goes on.
    void will_need() const;

   private:
    friend class SpillFile;
    const uint8_t* data_ = nullptr;
    int64_t bytes_ = 0;
  };

  // Throws kUnavailable, naming the folder, when no file can be made there.
  explicit SpillFile(const std::filesystem::path& folder);
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;
  ~SpillFile();

  // A copy of these bytes. REQUIRES: bytes >= 1. Throws kUnavailable when the disk is full.
  Mapping put(const uint8_t* data, int64_t bytes);
  int64_t bytes() const { return bytes_; }

 private:
  std::filesystem::path folder_;
  int file_;
  int64_t bytes_ = 0;
};

}  // namespace quarry
