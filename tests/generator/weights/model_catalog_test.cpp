#include "generator/weights/model_catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "data/core/hash.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

// A home with two models, an unfinished download and a folder that is no model; and its own cache.
class ModelCatalogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    old_home_ = variable("QUARRY_HOME");
    old_cache_ = variable("QUARRY_CACHE");
    ::setenv("QUARRY_HOME", home().c_str(), 1);
    ::setenv("QUARRY_CACHE", (folder_.path() / "cache").c_str(), 1);
    write_tiny_llama_gguf(home() / "models/tiny-llama", 1);
    write_tiny_bert_folder(home() / "models/tiny-bert", 2);
    write_tiny_llama_gguf(home() / "models/.tiny-llama.42", 1);
    fs::create_directories(home() / "models/empty");
  }
  void TearDown() override {
    restore("QUARRY_HOME", old_home_);
    restore("QUARRY_CACHE", old_cache_);
  }
  fs::path home() const { return folder_.path() / "home"; }
  // Makes a file look old enough to be remembered.
  static void age(const fs::path& file) {
    fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::hours(1));
  }

  test::TemporaryFolder folder_;

 private:
  static std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  }
  static void restore(const char* name, const std::string& value) {
    if (value.empty()) {
      ::unsetenv(name);
    } else {
      ::setenv(name, value.c_str(), 1);
    }
  }
  std::string old_home_;
  std::string old_cache_;
};

TEST_F(ModelCatalogTest, InstalledModelsAreTheUsableFoldersByName) {
  const std::vector<ModelLocation> models = installed_models();
  ASSERT_EQ(models.size(), 2u);
  EXPECT_EQ(models[0].name, "tiny-bert");
  EXPECT_EQ(models[0].kind, ModelLocation::Kind::kHuggingFaceFolder);
  EXPECT_EQ(models[1].name, "tiny-llama");
  EXPECT_EQ(models[1].path.filename(), "tiny-llama.gguf");
}

TEST_F(ModelCatalogTest, ShortNamesFoldersAndFilesResolve) {
  EXPECT_EQ(resolve_model("tiny-llama").path, home() / "models/tiny-llama/tiny-llama.gguf");
  const ModelLocation folder = resolve_model((home() / "models/tiny-bert/").string());
  EXPECT_EQ(folder.kind, ModelLocation::Kind::kHuggingFaceFolder);
  EXPECT_EQ(folder.name, "tiny-bert");
  const ModelLocation file = resolve_model((home() / "models/tiny-llama/tiny-llama.gguf").string());
  EXPECT_EQ(file.kind, ModelLocation::Kind::kGgufFile);
  EXPECT_EQ(file.name, "tiny-llama");
}

TEST_F(ModelCatalogTest, AnUnknownModelNamesTheInstalledOnesAndHowToFetch) {
  for (const char* part : {"no model 'gpt-7'", "Installed: tiny-bert, tiny-llama",
                           "scripts/fetch_models.sh fetches smollm2-135m-instruct"}) {
    expect_error(ErrorCode::kNotFound, part, [] { resolve_model("gpt-7"); });
  }
  expect_error(ErrorCode::kNotFound, "no model '/no/such/file.gguf'",
               [] { resolve_model("/no/such/file.gguf"); });
  ::setenv("QUARRY_HOME", "/no/such/home", 1);
  EXPECT_TRUE(installed_models().empty());
  expect_error(ErrorCode::kNotFound, "Installed: none", [] { resolve_model("gpt-7"); });
}

TEST_F(ModelCatalogTest, PathsThatAreNoModelAreRefused) {
  expect_error(ErrorCode::kInvalidArgument, "name is empty", [] { resolve_model(""); });
  expect_error(ErrorCode::kInvalidArgument, "neither config.json nor a .gguf file",
               [] { resolve_model("empty"); });
  const fs::path text = folder_.path() / "notes.txt";
  test::write_file(text, "hello");
  expect_error(ErrorCode::kInvalidArgument, "wanted a .gguf file or a Hugging Face folder",
               [&] { resolve_model(text.string()); });
  test::write_file(home() / "models/tiny-llama/second.gguf", "x");
  expect_error(ErrorCode::kInvalidArgument, "holds 2 .gguf files (second.gguf, tiny-llama.gguf",
               [] { resolve_model("tiny-llama"); });
}

TEST_F(ModelCatalogTest, ContentHashFollowsWhatChangesBehaviour) {
  const ModelLocation llama = resolve_model("tiny-llama");
  EXPECT_EQ(model_content_hash(llama), sha256_file_hex(llama.path));
  const ModelLocation bert = resolve_model("tiny-bert");
  const std::string before = model_content_hash(bert);
  test::write_file(bert.path / "README.md", "words");
  EXPECT_EQ(model_content_hash(bert), before);
  test::write_file(bert.path / "1_Pooling/config.json", "{}");
  EXPECT_NE(model_content_hash(bert), before);
}

TEST_F(ModelCatalogTest, HashesAreRememberedUntilTheFileChanges) {
  const ModelLocation llama = resolve_model("tiny-llama");
  age(llama.path);
  const std::string true_hash = model_content_hash(llama);
  // What the cache says is believed while size and time agree ...
  const fs::path cache = folder_.path() / "cache/hashes.json";
  std::ifstream in(cache);
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  ASSERT_THAT(text, ::testing::HasSubstr(true_hash));
  text.replace(text.find(true_hash), true_hash.size(), std::string(64, 'f'));
  test::write_file(cache, text);
  EXPECT_EQ(model_content_hash(llama), std::string(64, 'f'));
  // ... and not after the file was written again.
  test::overwrite_byte(llama.path, 100, '!');
  EXPECT_EQ(model_content_hash(llama), sha256_file_hex(llama.path));
}

TEST_F(ModelCatalogTest, ADamagedOrUnwritableCacheIsNoError) {
  const ModelLocation llama = resolve_model("tiny-llama");
  age(llama.path);
  const std::string expected = sha256_file_hex(llama.path);
  test::write_file(folder_.path() / "cache/hashes.json", "{\"x\": [1, 2");
  EXPECT_EQ(model_content_hash(llama), expected);
  for (const char* content : {"[]", "{\"x\": 7}", "7"}) {
    test::write_file(folder_.path() / "cache/hashes.json", content);
    EXPECT_EQ(model_content_hash(llama), expected);
  }
  ::setenv("QUARRY_CACHE", "/proc/no/such/folder", 1);
  EXPECT_EQ(model_content_hash(llama), expected);
}

TEST_F(ModelCatalogTest, DescribesAGgufFileAndAFolder) {
  const ModelInfo llama = describe_model(resolve_model("tiny-llama"));
  EXPECT_EQ(llama.format, "gguf v3");
  EXPECT_EQ(llama.architecture, "llama");
  EXPECT_EQ(llama.role, "generator");
  EXPECT_EQ(llama.context_length, 512);
  EXPECT_EQ(llama.vocab_size, 299);
  EXPECT_EQ(llama.tokenizer, "byte-level BPE, smollm");
  // Embedding, two layers (q, o: 64 x 64, k, v: 32 x 64, three 64 x 128, two norms), last norm.
  EXPECT_EQ(llama.parameters, 299 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 128) + 64);
  EXPECT_THAT(llama.tensor_types,
              ::testing::ElementsAre(::testing::Pair("F32", 5), ::testing::Pair("Q4_1", 14),
                                     ::testing::Pair("Q8_0", 1)));

  const ModelInfo bert = describe_model(resolve_model("tiny-bert"));
  EXPECT_EQ(bert.format, "safetensors");
  EXPECT_EQ(bert.architecture, "bert");
  EXPECT_EQ(bert.role, "embedder");
  EXPECT_EQ(bert.context_length, 64);
  EXPECT_EQ(bert.tokenizer, "WordPiece");
  EXPECT_EQ(bert.content_hash.size(), 64u);
}

// The shell script reads its own copy of the table.
TEST(FetchableModels, EqualTheTableOfTheScript) {
  std::ifstream in(QUARRY_SOURCE_DIR "/scripts/models.tsv");
  ASSERT_TRUE(in.good());
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  for (const FetchableModel& model : fetchable_models()) {
    EXPECT_THAT(text, ::testing::HasSubstr(std::string(model.name) + "\t" + model.wheel + "\t" +
                                           model.version + "\t" + model.wheel_sha256));
  }
}

}  // namespace
}  // namespace quarry
