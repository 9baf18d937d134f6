#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace quarry::test {

// All bytes of a file; of one that cannot be read none.
inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace quarry::test
