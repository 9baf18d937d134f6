#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "data/core/error.h"

namespace quarry::test {

// A fresh folder that goes away with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "quarry_test.XXXXXX").string();
    QUARRY_CHECK(::mkdtemp(name.data()) != nullptr, ErrorCode::kUnavailable, name,
                 ": cannot make a temporary folder");
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace quarry::test
