// Memory that lies in a file, and what there is of the other kind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <numeric>
#include <vector>

#include "data/core/error.h"
#include "data/core/mapped_file.h"
#include "data/core/spill_file.h"
#include "data/core/system_memory.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

std::vector<uint8_t> bytes_from(uint8_t first, size_t count) {
  std::vector<uint8_t> bytes(count);
  std::iota(bytes.begin(), bytes.end(), first);
  return bytes;
}

std::vector<uint8_t> bytes_of(const SpillFile::Mapping& mapping) {
  return {mapping.data(), mapping.data() + mapping.bytes()};
}

TEST(SpillFile, MappingsHoldTheirBytesAndOutliveTheFile) {
  const test::TemporaryFolder folder;
  SpillFile::Mapping first;
  SpillFile::Mapping second;
  {
    SpillFile file(folder.path() / "a" / "b");
    first = file.put(bytes_from(3, 10000).data(), 10000);
    second = file.put(bytes_from(7, 1).data(), 1);
    EXPECT_GE(file.bytes(), 10001);
  }
  first.will_need();
  EXPECT_EQ(bytes_of(first), bytes_from(3, 10000));
  EXPECT_EQ(bytes_of(second), bytes_from(7, 1));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(second.data()) % 4096, 0u);
  SpillFile::Mapping moved = std::move(first);
  EXPECT_EQ(bytes_of(moved), bytes_from(3, 10000));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path() / "a" / "b"));
}

TEST(SpillFile, AFolderThatCannotBeIsNamed) {
  const test::TemporaryFolder folder;
  std::ofstream(folder.path() / "file") << "x";
  try {
    SpillFile file(folder.path() / "file");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_THAT(error.what(), ::testing::HasSubstr((folder.path() / "file").string()));
  }
}

TEST(MappedFile, WhatIsForgottenCanBeReadAgain) {
  const test::TemporaryFolder folder;
  const std::vector<uint8_t> bytes = bytes_from(1, 100000);
  std::ofstream(folder.path() / "file", std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  const MappedFile file(folder.path() / "file");
  file.forget(file.data() + 5, 90000);
  file.forget(file.data() + 99999, 1);
  EXPECT_EQ(std::vector<uint8_t>(file.data(), file.data() + file.size()), bytes);
}

TEST(AvailableMemory, IsSomethingAndNotAllThereIs) {
  const int64_t available = available_memory();
  EXPECT_GT(available, 1 << 20);
  EXPECT_LT(available, std::numeric_limits<int64_t>::max());
}

}  // namespace
}  // namespace quarry
