#include "data/core/hash.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

// Largest resident memory of this program so far, in bytes.
int64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return 1024 * std::stoll(line.substr(6));
  }
  return 0;
}

TEST(Sha256, TheStandardsExamples) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256, AFileIsItsBytesAndDoesNotStayInMemory) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "file";
  std::string megabyte(size_t{1} << 20, 'x');
  std::string whole;
  {
    std::ofstream file(path, std::ios::binary);
    for (int i = 0; i < 3; ++i) {
      megabyte[7] = static_cast<char>('a' + i);
      file << megabyte;
      whole += megabyte;
    }
    file << "end";
    whole += "end";
  }
  EXPECT_EQ(sha256_file_hex(path), sha256_hex(whole));
  {
    std::ofstream file(path, std::ios::binary | std::ios::app);
    for (int i = 0; i < 61; ++i) file << megabyte;
  }
  const int64_t before = peak_bytes();
  ASSERT_GT(before, 0);
  EXPECT_EQ(sha256_file_hex(path).size(), 64U);
  EXPECT_LT(peak_bytes(), before + (int64_t{16} << 20));
  std::ofstream(path, std::ios::trunc).close();
  EXPECT_EQ(sha256_file_hex(path), sha256_hex(""));
}

}  // namespace
}  // namespace quarry
