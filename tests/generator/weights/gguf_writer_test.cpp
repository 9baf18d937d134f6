#include "generator/weights/gguf_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/generator/weights/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using test::expect_error;
using ::testing::ElementsAre;

class GgufWriterTest : public ::testing::Test {
 protected:
  std::unique_ptr<GgufFile> write() {
    writer_.write(path_);
    return GgufFile::open(path_);
  }
  TensorToWrite tensor(const std::string& name, WeightType type, const std::vector<int64_t>& shape,
                       const std::vector<float>& values) {
    data_.push_back(std::make_unique<std::string>(test::encode(type, values)));
    TensorToWrite result;
    result.name = name;
    result.type = type;
    result.shape = shape;
    result.data = data_.back()->data();
    return result;
  }

  test::TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "file.gguf";
  GgufWriter writer_;
  std::vector<std::unique_ptr<std::string>> data_;
};

TEST_F(GgufWriterTest, EveryKindOfValueComesBack) {
  writer_.set_string("s", "text");
  writer_.set_bool("b", true);
  writer_.set_uint32("u", 4000000000u);
  writer_.set_int32("i", -5);
  writer_.set_uint64("w", uint64_t{1} << 40);
  writer_.set_float("f", 0.1f);
  writer_.set_strings("ss", {"a", "", "c"});
  writer_.set_floats("fs", {1.5f, -2.0f});
  writer_.set_int32s("is", {3, -4});
  writer_.set_string("s", "later");
  const auto file = write();
  EXPECT_EQ(file->version(), 3u);
  EXPECT_THAT(file->keys(), ElementsAre("s", "b", "u", "i", "w", "f", "ss", "fs", "is"));
  EXPECT_EQ(file->get_string("s"), "later");
  EXPECT_EQ(file->find_bool("b"), true);
  EXPECT_EQ(file->get_int("u"), 4000000000);
  EXPECT_EQ(file->get_int("i"), -5);
  EXPECT_EQ(file->get_int("w"), int64_t{1} << 40);
  EXPECT_EQ(file->get_float("f"), 0.1f);
  EXPECT_THAT(file->get_strings("ss"), ElementsAre("a", "", "c"));
  EXPECT_THAT(*file->find_floats("fs"), ElementsAre(1.5f, -2.0f));
  EXPECT_THAT(*file->find_ints("is"), ElementsAre(3, -4));
}

TEST_F(GgufWriterTest, TensorsAreAlignedAndKeepShapeAndBytes) {
  for (const uint32_t alignment : {32u, 64u}) {
    writer_ = GgufWriter();
    if (alignment != 32) writer_.set_uint32("general.alignment", alignment);
    writer_.add_tensor(tensor("a", WeightType::kF32, {3}, {1, 2, 3}));
    writer_.add_tensor(tensor("q", WeightType::kQ8_0, {2, 32}, std::vector<float>(64, 0.5f)));
    TensorToWrite made = tensor("m", WeightType::kF16, {2, 3}, {1, 2, 3, 4, 5, 6});
    made.data = nullptr;
    made.make_data = [this] { return *data_.back(); };
    writer_.add_tensor(made);
    const auto file = write();
    EXPECT_EQ(file->alignment(), alignment);
    ASSERT_EQ(file->tensors().size(), 3u);
    EXPECT_THAT(file->get("m").shape, ElementsAre(2, 3));
    EXPECT_EQ(file->get("q").type, WeightType::kQ8_0);
    for (size_t i = 0; i < 3; ++i) {
      const TensorView& view = file->tensors()[i];
      const std::string& wanted = *data_[data_.size() - 3 + i];
      ASSERT_EQ(view.bytes, static_cast<int64_t>(wanted.size()));
      EXPECT_EQ(std::memcmp(view.data, wanted.data(), wanted.size()), 0) << view.name;
    }
    EXPECT_EQ(std::filesystem::file_size(path_) % alignment, 0u);
  }
}

TEST_F(GgufWriterTest, ACopyOfAFileIsTheSameFile) {
  test::GgufBuilder builder;
  builder.set_string("general.architecture", "llama");
  builder.set_strings("tokens", {"x", "yy"});
  builder.set_floats("scores", {0.5f});
  builder.set_bool("flag", false);
  builder.set_raw("wide", static_cast<uint32_t>(gguf::ValueType::kInt64),
                  test::scalar_bytes(int64_t{-7}));
  builder.add_tensor("t", WeightType::kF32, {8}, {1, 2, 3, 4, 5, 6, 7, 8});
  builder.write(folder_.path() / "original.gguf");
  const auto original = GgufFile::open(folder_.path() / "original.gguf");
  writer_.copy_metadata(*original);
  const TensorView& view = original->get("t");
  writer_.add_tensor({view.name, view.type, view.shape, view.data});
  writer_.write(path_);
  const MappedFile written(path_);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(written.data()), written.size()),
            builder.bytes());
}

TEST_F(GgufWriterTest, WhatTheFormatCannotHoldIsRefused) {
  writer_.add_tensor(tensor("a", WeightType::kF32, {1}, {1}));
  const auto expect_refused = [&](const std::string& part, TensorToWrite wrong) {
    expect_error(ErrorCode::kInvalidArgument, part, [&] { writer_.add_tensor(wrong); });
  };
  expect_refused("tensor name 'a' is taken", tensor("a", WeightType::kF32, {1}, {1}));
  expect_refused("0 extents", tensor("b", WeightType::kF32, {}, {1}));
  expect_refused("5 extents", tensor("c", WeightType::kF32, {1, 1, 1, 1, 1}, {1}));
  expect_refused("1 extents, wanted 1 to 4 positive", tensor("d", WeightType::kF32, {0}, {}));
  expect_refused("rows of 16 elements, not a multiple of Q8_0's block of 32",
                 {"e", WeightType::kQ8_0, {2, 16}, nullptr});
  TensorToWrite short_data = tensor("f", WeightType::kF32, {2}, {1, 2});
  short_data.make_data = [] { return std::string(4, '\0'); };
  writer_.add_tensor(short_data);
  expect_error(ErrorCode::kInvalidArgument, "'f' was made with 4 bytes, its shape wants 8",
               [&] { writer_.write(path_); });
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  expect_error(ErrorCode::kUnavailable, "cannot write beside it",
               [&] { GgufWriter().write(folder_.path() / "absent" / "x.gguf"); });
}

}  // namespace
}  // namespace quarry
