#include "generator/weights/safetensors_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "data/core/json.h"
#include "data/core/paths.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using test::expect_error;
using ::testing::ElementsAre;

std::string file_bytes(const std::string& header, const std::string& data) {
  return test::scalar_bytes<uint64_t>(header.size()) + header + data;
}

std::string read_all(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

class SafetensorsFileTest : public ::testing::Test {
 protected:
  std::unique_ptr<SafetensorsFile> open(const std::string& bytes) {
    const std::filesystem::path path = folder_.path() / "model.safetensors";
    test::write_file(path, bytes);
    return SafetensorsFile::open(path);
  }
  void expect_corrupt(const std::string& part, const std::string& header,
                      const std::string& data = std::string(16, 'x')) {
    expect_error(ErrorCode::kCorruptData, part, [&] { open(file_bytes(header, data)); });
  }
  // One file of three tensors, as write_safetensors makes it.
  std::string small_file() {
    const float a[] = {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f};
    const uint16_t b[] = {0x3c00, 0x4000};
    const int64_t c[] = {7};
    const std::filesystem::path path = folder_.path() / "small.safetensors";
    write_safetensors(path,
                      {{"a", WeightType::kF32, {2, 3}, a},
                       {"b", WeightType::kF16, {2}, b},
                       {"c", WeightType::kI64, {}, c}},
                      {{"format", "pt"}});
    return read_all(path);
  }
  // Two shards and their index; the index can be changed before it is written.
  void write_shards(const Json& weight_map) {
    const float x[] = {1.0f, 2.0f};
    write_safetensors(folder_.path() / "one.safetensors", {{"a", WeightType::kF32, {2}, x}}, {});
    write_safetensors(folder_.path() / "two.safetensors", {{"b", WeightType::kF32, {1, 2}, x}}, {});
    test::write_file(
        folder_.path() / "model.safetensors.index.json",
        dump_json(Json{{"metadata", {{"total_size", 16}}}, {"weight_map", weight_map}}));
  }
  void expect_shards_refused(ErrorCode code, const std::string& part, const Json& weight_map) {
    write_shards(weight_map);
    expect_error(code, part, [&] { SafetensorsFile::open(folder_.path()); });
  }

  test::TemporaryFolder folder_;
};

TEST_F(SafetensorsFileTest, WriterAndReaderRoundTrip) {
  const auto file = open(small_file());
  ASSERT_EQ(file->tensors().size(), 3u);
  const TensorView& a = file->get("a");
  EXPECT_THAT(a.shape, ElementsAre(2, 3));
  float values[6];
  dequantize(a.type, a.data, values, 6);
  EXPECT_THAT(values, ElementsAre(1, 2, 3, 4, 5, 6));
  dequantize(WeightType::kF16, file->get("b").data, values, 2);
  EXPECT_EQ(values[1], 2.0f);
  EXPECT_TRUE(file->get("c").shape.empty());
  EXPECT_EQ(file->get("c").num_elements(), 1);
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(file->find("d"), nullptr);
  expect_error(ErrorCode::kCorruptData, "holds no tensor 'd' (3 others)", [&] { file->get("d"); });
}

TEST_F(SafetensorsFileTest, WriterLaysOutWidestFirstAndPadsTheHeader) {
  const std::string bytes = small_file();
  uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes.data(), 8);
  EXPECT_EQ(header_bytes % 8, 0u);
  const std::string header = bytes.substr(8, header_bytes);
  EXPECT_LT(header.find("\"c\""), header.find("\"a\""));
  EXPECT_LT(header.find("\"a\""), header.find("\"b\""));
  EXPECT_EQ(bytes.size(), 8 + header_bytes + 8 + 24 + 4);
}

TEST_F(SafetensorsFileTest, WriterRefusesWhatTheFormatCannotHold) {
  const float x[32] = {};
  const auto path = folder_.path() / "bad.safetensors";
  expect_error(ErrorCode::kInvalidArgument, "'x' has type Q4_0", [&] {
    write_safetensors(path, {{"x", WeightType::kQ4_0, {32}, x}}, {});
  });
  expect_error(ErrorCode::kInvalidArgument, "tensor name 'x' is taken", [&] {
    write_safetensors(path, {{"x", WeightType::kF32, {1}, x}, {"x", WeightType::kF32, {1}, x}}, {});
  });
  EXPECT_FALSE(std::filesystem::exists(path));
  expect_error(ErrorCode::kUnavailable, "cannot write",
               [&] { write_safetensors(folder_.path() / "no/such/folder/x.safetensors", {}, {}); });
}

TEST_F(SafetensorsFileTest, MissingEmptyAndForeignFilesAreRefused) {
  expect_error(ErrorCode::kNotFound, "cannot open",
               [&] { SafetensorsFile::open(folder_.path() / "absent.safetensors"); });
  expect_error(ErrorCode::kNotFound, "holds neither model.safetensors nor",
               [&] { SafetensorsFile::open(folder_.path()); });
  expect_error(ErrorCode::kCorruptData, "0 bytes long, too short", [&] { open(""); });
  expect_error(ErrorCode::kCorruptData, "not a safetensors file",
               [&] { open("\x89PNG\r\n\x1a\n0000"); });
  expect_error(ErrorCode::kCorruptData, "not a safetensors file",
               [&] { open("Once upon a time there was a file"); });
}

TEST_F(SafetensorsFileTest, EveryTruncationThrows) {
  const std::filesystem::path path = folder_.path() / "small.safetensors";
  const std::string whole = small_file();
  SafetensorsFile::open(path);
  for (size_t length = whole.size(); length-- > 0;) {
    std::filesystem::resize_file(path, length);
    EXPECT_THROW(SafetensorsFile::open(path), Error) << "cut at " << length;
  }
}

TEST_F(SafetensorsFileTest, EveryBitFlipInTheHeaderLoadsOrThrowsError) {
  const std::filesystem::path path = folder_.path() / "small.safetensors";
  const std::string whole = small_file();
  uint64_t header_bytes;
  std::memcpy(&header_bytes, whole.data(), 8);
  int loaded = 0;
  for (size_t byte = 0; byte < 8 + header_bytes; ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      test::overwrite_byte(path, byte, static_cast<char>(whole[byte] ^ (1 << bit)));
      try {
        const auto file = SafetensorsFile::open(path);
        for (const TensorView& tensor : file->tensors()) {
          std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
          dequantize(tensor.type, tensor.data, values.data(), tensor.num_elements());
        }
        ++loaded;
      } catch (const Error&) {
      }
    }
    test::overwrite_byte(path, byte, whole[byte]);
  }
  EXPECT_GT(loaded, 0);
  EXPECT_LT(loaded, static_cast<int>(header_bytes) * 8);
}

TEST_F(SafetensorsFileTest, BadHeadersAreRefused) {
  expect_error(ErrorCode::kCorruptData, "claims a header of 18446744073709551615 bytes",
               [&] { open(test::scalar_bytes<uint64_t>(UINT64_MAX) + "{}"); });
  expect_corrupt("not valid JSON", "{\"a\":");
  expect_corrupt("not valid JSON", "{\"a\": 1e999}");
  expect_corrupt("is a JSON array, wanted an object", "[]");
  const std::string deep(200000, '[');
  expect_corrupt("JSON nested 200000 levels deep, at most 128 accepted", deep);
  expect_corrupt("JSON nested 50001 levels deep",
                 "{\"a\":" + std::string(50000, '[') + std::string(50000, ']') + "}");
  expect_corrupt("__metadata__ is not an object", "{\"__metadata__\":[]}");
  expect_corrupt("__metadata__ 'a' is not a string", "{\"__metadata__\":{\"a\":1}}");
}

TEST_F(SafetensorsFileTest, BadEntriesAreRefusedByName) {
  const auto entry = [](const std::string& dtype, const std::string& shape,
                        const std::string& offsets) {
    return R"({"x":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}}";
  };
  expect_corrupt("tensor 'x' lacks a dtype", "{\"x\":{}}");
  expect_corrupt("tensor 'x' lacks a dtype", entry("F32", "[1]", "[0,4,8]"));
  expect_corrupt("has dtype 'Q9', which safetensors does not define", entry("Q9", "[1]", "[0,4]"));
  expect_corrupt("extent is '-1', wanted a whole number", entry("F32", "[-1]", "[0,4]"));
  expect_corrupt("extent is '1.5', wanted a whole number", entry("F32", "[1.5]", "[0,4]"));
  expect_corrupt("a shape whose size overflows", entry("F32", "[4611686018427387904,4]", "[0,0]"));
  expect_corrupt("a shape whose size overflows", entry("F32", "[4611686018427387904]", "[0,0]"));
  expect_corrupt("lies at bytes 0 to 400, but the file holds 16", entry("F32", "[100]", "[0,400]"));
  expect_corrupt("lies at bytes 8 to 4", entry("F32", "[1]", "[8,4]"));
  expect_corrupt("takes 8 bytes, its dtype F32 and shape want 4", entry("F32", "[1]", "[0,8]"));
  expect_corrupt("tensor 'x' begins at byte 4 of the data, wanted 0 (a gap)",
                 entry("F32", "[1]", "[4,8]"));
}

TEST_F(SafetensorsFileTest, OverlapsAndDuplicatesAreRefused) {
  expect_corrupt("(tensors overlap)", R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                      R"("y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})");
  expect_corrupt("tensor 'x' is there twice",
                 R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                 R"("x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})");
  expect_corrupt("tensor 'x' has 'shape' twice",
                 R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"shape":[1,2]}})");
}

TEST_F(SafetensorsFileTest, AZeroDoesNotHideTheRestOfTheHeader) {
  const std::string header = R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  expect_corrupt("a zero", header + std::string(1, '\0'));
  expect_corrupt("a zero", header + std::string(1, '\0') + "more");
}

TEST_F(SafetensorsFileTest, TrailingBytesAndEmptyTensorsAreTolerated) {
  const auto file = open(file_bytes(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                    R"("e":{"dtype":"I8","shape":[3,0],"data_offsets":[4,4]}})",
                                    "12345678"));
  EXPECT_EQ(file->get("e").num_elements(), 0);
  EXPECT_EQ(file->get("x").bytes, 4);
}

TEST_F(SafetensorsFileTest, UnreadableDtypesAreRefusedOnlyWhenAskedFor) {
  const auto file = open(file_bytes(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                    R"("mask":{"dtype":"BOOL","shape":[4],"data_offsets":[4,8]}})",
                                    "12345678"));
  EXPECT_EQ(file->tensors().size(), 1u);
  EXPECT_EQ(file->unreadable().at("mask"), "BOOL");
  expect_error(ErrorCode::kInvalidArgument, "tensor 'mask' has dtype BOOL, which is not supported",
               [&] { file->get("mask"); });
}

TEST_F(SafetensorsFileTest, ShardsAreReadAsOne) {
  write_shards({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  const auto file = SafetensorsFile::open(folder_.path());
  EXPECT_EQ(file->num_files(), 2);
  EXPECT_THAT(file->get("b").shape, ElementsAre(1, 2));
  float values[2];
  dequantize(WeightType::kF32, file->get("a").data, values, 2);
  EXPECT_EQ(values[1], 2.0f);
}

TEST_F(SafetensorsFileTest, BrokenShardIndexesAreRefused) {
  expect_shards_refused(ErrorCode::kCorruptData, "has no object \"weight_map\"", Json::array());
  expect_shards_refused(ErrorCode::kNotFound, "shard 'three.safetensors' is missing",
                        {{"a", "one.safetensors"}, {"b", "three.safetensors"}});
  expect_shards_refused(
      ErrorCode::kCorruptData, "tensor 'c' is not in its shard 'two.safetensors'",
      {{"a", "one.safetensors"}, {"b", "two.safetensors"}, {"c", "two.safetensors"}});
  expect_shards_refused(ErrorCode::kCorruptData, "tensor 'b' is not in its shard 'one.safetensors'",
                        {{"a", "one.safetensors"}, {"b", "one.safetensors"}});
  expect_shards_refused(ErrorCode::kCorruptData, "wanted a plain file name",
                        {{"a", "../one.safetensors"}});
  expect_shards_refused(ErrorCode::kCorruptData, "weight_map 'a' is not a file name", {{"a", 1}});
  write_shards({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  std::filesystem::copy_file(folder_.path() / "one.safetensors", folder_.path() / "two.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  expect_error(ErrorCode::kCorruptData, "tensor 'a' is in another shard as well",
               [&] { SafetensorsFile::open(folder_.path()); });
}

TEST(SafetensorsFile, DefaultEmbedderIsRead) {
  const std::filesystem::path folder = quarry_home() / "models/all-minilm-l6-v2";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not installed";
  const auto file = SafetensorsFile::open(folder);
  EXPECT_THAT(file->get("embeddings.word_embeddings.weight").shape, ElementsAre(30522, 384));
}

}  // namespace
}  // namespace quarry
