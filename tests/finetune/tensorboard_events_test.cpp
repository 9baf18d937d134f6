#include "finetune/tensorboard_events.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <iterator>

#include "data/core/error.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string read_bytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

std::vector<int64_t> steps_in(const fs::path& path) {
  std::vector<int64_t> steps;
  for (const ScalarEvent& event : read_scalar_events(path)) steps.push_back(event.step);
  return steps;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

class TensorboardEvents : public ::testing::Test {
 protected:
  void write_steps(int64_t count) {
    TensorboardWriter writer(path_);
    for (int64_t step = 1; step <= count; ++step) {
      writer.append({1700000000.25 + static_cast<double>(step),
                     step * 100,
                     {{"train/loss", 2.0F / static_cast<float>(step)}, {"train/rate", 0.5F}}});
    }
  }
  test::TemporaryFolder folder_;
  fs::path path_ = folder_.path() / "events.out.tfevents.1.test";
};

TEST(Crc32c, KnownValues) {
  // RFC 3720 B.4 and the usual check value.
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43U);
}

TEST_F(TensorboardEvents, FirstRecordIsTheVersionInTensorflowsBytes) {
  TensorboardWriter writer(path_);
  const std::string bytes = read_bytes(path_);
  // wall_time: key 0x09 and 8 bytes; step: 0x10 0x00; file_version: 0x1A, 13, the text.
  ASSERT_EQ(bytes.size(), 12 + 9 + 2 + 2 + 13 + 4U);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x1A\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(bytes[12], '\x09');
  EXPECT_EQ(bytes.substr(21, 17), std::string("\x10\0\x1A\x0D", 4) + "brain.Event:2");
}

TEST_F(TensorboardEvents, ReadsBackWhatWasWrittenInTwoSittings) {
  write_steps(2);
  TensorboardWriter(path_).append({5.5, -1, {{"eval/loss", -1e-30F}}});
  const std::vector<ScalarEvent> events = read_scalar_events(path_);
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[1].step, 200);
  EXPECT_EQ(events[1].wall_time, 1700000002.25);
  EXPECT_THAT(events[1].values, ElementsAre(std::pair<std::string, float>("train/loss", 1.0F),
                                            std::pair<std::string, float>("train/rate", 0.5F)));
  EXPECT_EQ(events[2].step, -1);
  EXPECT_EQ(events[2].values[0].second, -1e-30F);
}

TEST_F(TensorboardEvents, CutsAfterAStep) {
  write_steps(4);
  const auto whole = fs::file_size(path_);
  truncate_events(path_, 400);
  EXPECT_EQ(fs::file_size(path_), whole);
  truncate_events(path_, 250);
  EXPECT_THAT(steps_in(path_), ElementsAre(100, 200));
  TensorboardWriter(path_).append({1, 300, {{"train/loss", 1.0F}}});
  EXPECT_THAT(steps_in(path_), ElementsAre(100, 200, 300));
}

TEST_F(TensorboardEvents, UnfinishedLastRecordIsLeftOutAndCut) {
  write_steps(3);
  const std::string bytes = read_bytes(path_);
  truncate_events(path_, 200);
  const auto record = bytes.size() - fs::file_size(path_);
  for (size_t missing = 1; missing <= record; ++missing) {
    write_bytes(path_, bytes.substr(0, bytes.size() - missing));
    ASSERT_THAT(steps_in(path_), ElementsAre(100, 200)) << missing;
  }
  write_bytes(path_, bytes.substr(0, bytes.size() - 3));
  truncate_events(path_, 1000);
  EXPECT_EQ(fs::file_size(path_), bytes.size() - record);
}

TEST_F(TensorboardEvents, FlippedBitsAreFoundByTheirByteOffset) {
  write_steps(1);
  const std::string bytes = read_bytes(path_);
  for (const size_t at : {size_t{3}, size_t{9}}) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    write_bytes(path_, damaged);
    EXPECT_THAT(message_of([&] { read_scalar_events(path_); }),
                HasSubstr("the record at byte 0 has a length whose checksum is wrong"));
  }
  for (const size_t back : {size_t{1}, size_t{20}}) {
    std::string damaged = bytes;
    damaged[bytes.size() - back] = static_cast<char>(damaged[bytes.size() - back] ^ 4);
    write_bytes(path_, damaged);
    EXPECT_THAT(message_of([&] { read_scalar_events(path_); }),
                HasSubstr("the record at byte 42 has a wrong checksum"));
  }
  EXPECT_THAT(message_of([&] { read_scalar_events(folder_.path() / "none"); }), HasSubstr("none"));
}

}  // namespace
}  // namespace quarry
