#include "generator/weights/gguf_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "data/core/paths.h"
#include "generator/weights/gguf_tokenizer.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

using test::expect_error;
using test::GgufBuilder;
using test::scalar_bytes;
using ::testing::ElementsAre;

// One of every kind of value and three tensors of different types: about 700 bytes.
GgufBuilder small_file() {
  GgufBuilder file;
  file.set_string("general.architecture", "llama");
  file.set_uint32("llama.block_count", 2);
  file.set_float("llama.eps", 0.5f);
  file.set_bool("flag", true);
  file.set_strings("words", {"one", "", "three"});
  file.set_floats("scores", {1.0f, -2.0f});
  file.set_int32s("types", {1, 3});
  file.set_raw("wide", 10, scalar_bytes<uint64_t>(1ull << 40));
  file.add_tensor("a", WeightType::kF32, {2, 3}, {1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f});
  file.add_tensor("b", WeightType::kQ8_0, {1, 32}, std::vector<float>(32, 1.0f));
  file.add_tensor("c", WeightType::kF16, {5}, {1.0f, 2.0f, 3.0f, 4.0f, 5.0f});
  return file;
}

class GgufFileTest : public ::testing::Test {
 protected:
  std::unique_ptr<GgufFile> open(const std::string& bytes) {
    const std::filesystem::path path = folder_.path() / "model.gguf";
    test::write_file(path, bytes);
    return GgufFile::open(path);
  }
  void expect_refused(ErrorCode code, const std::string& part, const GgufBuilder& file) {
    expect_error(code, part, [&] { open(file.bytes()); });
  }
  void expect_corrupt(const std::string& part, const GgufBuilder& file) {
    expect_refused(ErrorCode::kCorruptData, part, file);
  }
  // Opens and, when that works, reads everything.
  void open_and_read_all(const std::filesystem::path& path) {
    const std::unique_ptr<GgufFile> file = GgufFile::open(path);
    for (const TensorView& tensor : file->tensors()) {
      std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
      dequantize(tensor.type, tensor.data, values.data(), tensor.num_elements());
    }
    for (const std::string& key : file->keys()) {
      for (const std::function<void()>& read : std::initializer_list<std::function<void()>>{
               [&] { file->find_string(key); }, [&] { file->find_int(key); },
               [&] { file->find_float(key); }, [&] { file->find_bool(key); },
               [&] { file->find_strings(key); }, [&] { file->find_ints(key); },
               [&] { file->find_floats(key); }}) {
        try {
          read();
        } catch (const Error&) {
        }
      }
    }
  }

  test::TemporaryFolder folder_;
};

TEST_F(GgufFileTest, ReadsMetadataAndTensorsInRowMajorShape) {
  const auto file = open(small_file().bytes());
  EXPECT_EQ(file->version(), 3u);
  EXPECT_EQ(file->get_string("general.architecture"), "llama");
  EXPECT_EQ(file->get_int("llama.block_count"), 2);
  EXPECT_EQ(file->get_float("llama.eps"), 0.5);
  EXPECT_EQ(file->get_float("llama.block_count"), 2.0);
  EXPECT_EQ(file->find_bool("flag"), true);
  EXPECT_THAT(file->get_strings("words"), ElementsAre("one", "", "three"));
  EXPECT_THAT(*file->find_floats("scores"), ElementsAre(1.0f, -2.0f));
  EXPECT_THAT(*file->find_ints("types"), ElementsAre(1, 3));
  EXPECT_EQ(file->get_int("wide"), int64_t{1} << 40);
  EXPECT_EQ(file->find_array_size("words"), 3);
  EXPECT_EQ(file->find_string("absent"), std::nullopt);
  ASSERT_EQ(file->tensors().size(), 3u);
  const TensorView& a = file->get("a");
  EXPECT_THAT(a.shape, ElementsAre(2, 3));
  EXPECT_EQ(a.bytes, 24);
  float values[6];
  dequantize(a.type, a.data, values, 6);
  EXPECT_THAT(values, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(file->find("nothing"), nullptr);
}

TEST_F(GgufFileTest, VersionTwoAndAnotherAlignmentAreRead) {
  GgufBuilder file = small_file();
  file.version = 2;
  file.alignment = 64;
  file.set_uint32("general.alignment", 64);
  const auto opened = open(file.bytes());
  EXPECT_EQ(opened->alignment(), 64u);
  EXPECT_EQ(opened->get("c").shape.size(), 1u);
}

TEST_F(GgufFileTest, AccessorsNameKeyTypeFoundAndTypeWanted) {
  const auto file = open(small_file().bytes());
  const auto corrupt = [](const std::string& part, const std::function<void()>& action) {
    expect_error(ErrorCode::kCorruptData, part, action);
  };
  corrupt("'llama.block_count' has type uint32, wanted string",
          [&] { file->find_string("llama.block_count"); });
  corrupt("'words' has type array of string, wanted an integer", [&] { file->get_int("words"); });
  corrupt("'scores' has type array of float, wanted array of string",
          [&] { file->get_strings("scores"); });
  corrupt("'flag' has type bool, wanted a number", [&] { file->get_float("flag"); });
  corrupt("'words' has type array of string, wanted array of integers",
          [&] { file->find_ints("words"); });
  corrupt("metadata 'llama.context_length' is missing, wanted an integer",
          [&] { file->get_int("llama.context_length"); });
  corrupt("holds no tensor 'output.weight' (3 others)", [&] { file->get("output.weight"); });
}

TEST_F(GgufFileTest, MissingEmptyAndForeignFilesAreRefused) {
  expect_error(ErrorCode::kNotFound, "absent.gguf: cannot open",
               [&] { GgufFile::open(folder_.path() / "absent.gguf"); });
  expect_error(ErrorCode::kInvalidArgument, "not a regular file",
               [&] { GgufFile::open(folder_.path()); });
  expect_error(ErrorCode::kCorruptData, "the file is empty", [&] { open(""); });
  expect_error(ErrorCode::kCorruptData, "not a GGUF file: it begins with '\\x89PNG'",
               [&] { open("\x89PNG\r\n\x1a\n0000"); });
  expect_error(ErrorCode::kCorruptData, "not a GGUF file: it begins with 'Once'",
               [&] { open("Once upon a time"); });
  expect_error(ErrorCode::kCorruptData, "ends inside version", [&] { open("GGUF"); });
}

TEST_F(GgufFileTest, OtherVersionsAndSplitFilesAreRefusedByName) {
  GgufBuilder file = small_file();
  file.version = 1;
  expect_refused(ErrorCode::kInvalidArgument, "GGUF version 1 is not supported", file);
  file.version = 3u << 24;
  expect_refused(ErrorCode::kInvalidArgument, "big-endian", file);
  file = small_file();
  file.set_uint32("split.count", 3);
  file.set_uint32("split.no", 1);
  expect_refused(ErrorCode::kInvalidArgument, "part 2 of a model split into 3 files", file);
}

TEST_F(GgufFileTest, EveryTruncationThrows) {
  const std::filesystem::path path = folder_.path() / "model.gguf";
  const std::string whole = small_file().bytes();
  open(whole);
  for (size_t length = whole.size(); length-- > 0;) {
    std::filesystem::resize_file(path, length);
    EXPECT_THROW(GgufFile::open(path), Error) << "cut at " << length;
  }
}

TEST_F(GgufFileTest, EveryBitFlipLoadsOrThrowsError) {
  const std::filesystem::path path = folder_.path() / "model.gguf";
  const std::string whole = small_file().bytes();
  open(whole);
  int loaded = 0;
  for (size_t byte = 0; byte < whole.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      test::overwrite_byte(path, byte, static_cast<char>(whole[byte] ^ (1 << bit)));
      try {
        open_and_read_all(path);
        ++loaded;
      } catch (const Error&) {
      }
    }
    test::overwrite_byte(path, byte, whole[byte]);
  }
  // Flips in names and values are harmless to the reader; those in counts and types are not.
  EXPECT_GT(loaded, 0);
  EXPECT_LT(loaded, static_cast<int>(whole.size()) * 8);
}

TEST_F(GgufFileTest, HugeCountsAreRefusedBeforeAnyAllocation) {
  GgufBuilder file = small_file();
  file.claimed_tensors = uint64_t{1} << 62;
  expect_corrupt("claims 4611686018427387904 tensors", file);
  file = small_file();
  file.claimed_values = UINT64_MAX;
  expect_corrupt("claims 18446744073709551615 metadata entries", file);
  file = small_file();
  file.set_raw("strings", 9, scalar_bytes<uint32_t>(8) + scalar_bytes<uint64_t>(1ull << 61));
  expect_corrupt("'strings' claims 2305843009213693952 strings", file);
  file = small_file();
  file.set_raw("floats", 9, scalar_bytes<uint32_t>(6) + scalar_bytes<uint64_t>(1ull << 62));
  expect_corrupt("'floats' claims 4611686018427387904 elements of 4 bytes", file);
  file = small_file();
  file.set_raw("text", 8, scalar_bytes<uint64_t>(UINT64_MAX));
  expect_corrupt("'text' is 18446744073709551615 bytes long", file);
}

TEST_F(GgufFileTest, BadValueTypesAreRefused) {
  GgufBuilder file = small_file();
  file.set_raw("odd", 13, "");
  expect_corrupt("metadata 'odd' has value type 13", file);
  file = small_file();
  file.set_raw("nested", 9, scalar_bytes<uint32_t>(9) + scalar_bytes<uint64_t>(1));
  expect_corrupt("metadata 'nested' is an array of value type 9", file);
  file = small_file();
  file.set_raw("maybe", 7, scalar_bytes<uint8_t>(2));
  const auto opened = open(file.bytes());
  expect_error(ErrorCode::kCorruptData, "'maybe' is the bool 2, neither 0 nor 1",
               [&] { opened->find_bool("maybe"); });
}

TEST_F(GgufFileTest, BadAlignmentsAreRefused) {
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 21, 0x80000000u}) {
    GgufBuilder file = small_file();
    file.set_uint32("general.alignment", alignment);
    expect_corrupt("general.alignment is " + std::to_string(alignment) + ", not a power of two",
                   file);
  }
  GgufBuilder file = small_file();
  file.set_string("general.alignment", "32");
  expect_corrupt("'general.alignment' has type string, wanted uint32", file);
}

TEST_F(GgufFileTest, ShapesThatOverflowAreRefused) {
  const auto with_extents = [](const std::vector<uint64_t>& extents) {
    GgufBuilder file = small_file();
    file.add_raw_tensor("x", extents, 0, std::nullopt, "");
    return file;
  };
  expect_corrupt("tensor 'x' has 0 dimensions", with_extents({}));
  expect_corrupt("tensor 'x' has 5 dimensions", with_extents({1, 1, 1, 1, 1}));
  expect_corrupt("tensor 'x' has extent 0 in dimension 1", with_extents({4, 0}));
  expect_corrupt("zero or too large", with_extents({UINT64_MAX}));
  // The product wraps to a small number of bytes when it is not checked.
  expect_corrupt("zero or too large", with_extents({4, (1u << 30) - 1, (1u << 30) + 1, 1}));
  expect_corrupt("zero or too large", with_extents({1ull << 32, 1ull << 32}));
}

TEST_F(GgufFileTest, TensorsOutsideTheFileOrOverlappingAreRefused) {
  GgufBuilder file = small_file();
  file.add_raw_tensor("x", {64}, 0, uint64_t{1} << 63, "");
  expect_corrupt("tensor 'x' takes 256 bytes at offset 9223372036854775808", file);
  file = small_file();
  file.add_raw_tensor("x", {1024}, 0, std::nullopt, "short");
  expect_corrupt("tensor 'x' takes 4096 bytes", file);
  file = small_file();
  file.add_raw_tensor("x", {1}, 0, 4, "1234");
  expect_corrupt("not a multiple of the alignment 32", file);
  file = small_file();
  file.add_raw_tensor("x", {4}, 0, 0, "1234567812345678");
  expect_corrupt("overlap in the file", file);
}

TEST_F(GgufFileTest, DuplicateNamesAreRefused) {
  GgufBuilder file = small_file();
  file.add_tensor("a", WeightType::kF32, {1}, std::vector<float>{1.0f});
  expect_corrupt("tensor 'a' is there twice", file);
  file = small_file();
  file.set_uint32("flag", 1);
  expect_corrupt("metadata 'flag' is there twice", file);
}

TEST_F(GgufFileTest, UnsupportedTensorTypesAndBrokenRowsAreNamed) {
  GgufBuilder file = small_file();
  file.add_raw_tensor("x", {256}, 23, std::nullopt, std::string(136, 'x'));
  expect_refused(ErrorCode::kInvalidArgument, "tensor 'x' has type IQ4_XS (23)", file);
  file = small_file();
  file.add_raw_tensor("x", {256}, 4000, std::nullopt, "");
  expect_refused(ErrorCode::kInvalidArgument, "type unknown (4000)", file);
  file = small_file();
  file.add_raw_tensor("x", {33}, 2, std::nullopt, "");
  expect_corrupt("rows of 33 elements, not a multiple of Q4_0's block of 32", file);
}

TEST_F(GgufFileTest, NamesFromTheFileAreEscapedInMessages) {
  GgufBuilder file = small_file();
  file.set_raw("\x1b[31m\xff", 13, "");
  expect_corrupt("'\\x1b[31m\\xff'", file);
}

TEST(GgufTokenizer, TinyModelCarriesAByteLevelTokenizer) {
  const test::TemporaryFolder folder;
  const auto file = GgufFile::open(write_tiny_llama_gguf(folder.path(), 1));
  const GgufTokenizerData data = read_gguf_tokenizer(*file);
  EXPECT_EQ(data.model, "gpt2");
  EXPECT_EQ(data.pre, "smollm");
  EXPECT_EQ(data.tokens.size(), 299u);
  EXPECT_EQ(data.token_types.size(), 299u);
  EXPECT_EQ(data.merges.size(), 40u);
  EXPECT_EQ(data.eos_id, 2);
  EXPECT_FALSE(data.add_bos);
  EXPECT_THAT(read_gguf_chat_template(*file), ::testing::HasSubstr("<|im_start|>"));
}

TEST_F(GgufFileTest, TokenizerPartsThatDisagreeAreRefused) {
  const auto expect_bad = [&](const std::string& part, const GgufBuilder& file) {
    const auto opened = open(file.bytes());
    expect_error(ErrorCode::kCorruptData, part, [&] { read_gguf_tokenizer(*opened); });
  };
  GgufBuilder file;
  expect_bad("'tokenizer.ggml.model' is missing", file);
  file.set_string("tokenizer.ggml.model", "gpt2");
  expect_bad("'tokenizer.ggml.tokens' is missing", file);
  file.set_strings("tokenizer.ggml.tokens", {"a", "b"});
  GgufBuilder bad = file;
  bad.set_int32s("tokenizer.ggml.token_type", {1, 1, 1});
  expect_bad("'tokenizer.ggml.token_type' has 3 elements, the vocabulary has 2", bad);
  bad = file;
  bad.set_int32s("tokenizer.ggml.token_type", {1, 9});
  expect_bad("'tokenizer.ggml.token_type' holds 9", bad);
  bad = file;
  bad.set_uint32("tokenizer.ggml.eos_token_id", 2);
  expect_bad("'tokenizer.ggml.eos_token_id' is 2, the vocabulary has 2 tokens", bad);
}

TEST(GgufFile, DefaultGeneratorIsRead) {
  const std::filesystem::path path =
      quarry_home() / "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not installed";
  const auto file = GgufFile::open(path);
  EXPECT_EQ(file->tensors().size(), 272u);
  EXPECT_EQ(file->get_int("llama.block_count"), 30);
  EXPECT_EQ(file->get("token_embd.weight").type, WeightType::kQ8_0);
  EXPECT_THAT(file->get("blk.0.ffn_down.weight").shape, ElementsAre(576, 1536));
  EXPECT_EQ(read_gguf_tokenizer(*file).merges.size(), 48900u);
}

}  // namespace
}  // namespace quarry
