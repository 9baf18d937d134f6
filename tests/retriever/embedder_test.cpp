#include "retriever/embedder.h"

#include <gtest/gtest.h>

#include "data/core/error.h"
#include "generator/nn/lora_config.h"
#include "generator/nn/lora_save.h"
#include "generator/nn/lora_training.h"
#include "retriever/index_embedder.h"
#include "retriever/search.h"
#include "retriever/vector_sync.h"
#include "tests/retriever/index_fixture.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

// Gives back the texts it was handed.
class SpyEncoder : public LetterEncoder {
 public:
  explicit SpyEncoder(std::vector<std::string>* seen) : seen_(seen) {}
  std::vector<float> encode(const std::vector<std::string>& texts) const override {
    seen_->insert(seen_->end(), texts.begin(), texts.end());
    return LetterEncoder::encode(texts);
  }

 private:
  std::vector<std::string>* seen_;
};

std::vector<std::string> texts_seen(const std::string& name) {
  std::vector<std::string> seen;
  LoadedEncoder encoder;
  encoder.name = name;
  encoder.model = std::make_unique<SpyEncoder>(&seen);
  const Embedder embedder(std::move(encoder));
  embedder.embed_query("q");
  embedder.embed_queries({"r"});
  EXPECT_EQ(embedder.embed_passages({"p", "o"}).size(), 2U * kTestDim);
  return seen;
}

TEST(Embedder, E5ModelsGetTheirPrefixes) {
  const std::vector<std::string> wanted = {"query: q", "query: r", "passage: p", "passage: o"};
  EXPECT_EQ(texts_seen("multilingual-e5-small"), wanted);
  EXPECT_EQ(texts_seen("E5-small-v2"), wanted);
}

TEST(Embedder, OthersGetNone) {
  const std::vector<std::string> wanted = {"q", "r", "p", "o"};
  EXPECT_EQ(texts_seen("all-minilm-l6-v2"), wanted);
  EXPECT_EQ(texts_seen("made5"), wanted);
  EXPECT_EQ(texts_seen("e512"), wanted);
}

TEST(Embedder, PromptsOfTheModelFolderComeFirst) {
  const TemporaryFolder folder;
  write_bytes(folder / "config_sentence_transformers.json",
              R"({"prompts": {"query": "find: ", "document": "text: "}})");
  const EmbedderPrefixes prefixes = embedder_prefixes("some-e5", folder.path().string());
  EXPECT_EQ(prefixes.query, "find: ");
  EXPECT_EQ(prefixes.passage, "text: ");
  write_bytes(folder / "config_sentence_transformers.json", R"({"prompts": {"sts": "x"}})");
  EXPECT_EQ(embedder_prefixes("plain", folder.path().string()).query, "");
}

// Saves an adapter whose B is not 0 for the encoder of `model`; its notes name `base_hash`.
void save_some_adapter(const std::filesystem::path& folder, const std::filesystem::path& model,
                       const std::string& base_hash) {
  const LoadedEncoder encoder = load_text_encoder(model.string(), kernels::Precision::kFast);
  LoraSettings settings;
  settings.target_all_linear = true;
  settings.task_type = "FEATURE_EXTRACTION";
  const LoraConfig config = LoraConfig::from_settings(settings);
  const auto adapter = create_adapter(config, encoder.model->linear_slots(), "false", 3);
  SaveAdapterOptions options;
  options.notes.base_content_hash = base_hash.empty() ? encoder.content_hash : base_hash;
  options.notes.base_name = "some-bert";
  save_adapter(folder, config, *adapter, options);
}

TEST(Embedder, AQueryAdapterChangesQueriesAlone) {
  const TemporaryFolder folder;
  const auto model = write_tiny_bert_folder(folder.path() / "bert", 3);
  save_some_adapter(folder.path() / "adapter", model, "");
  EmbedderOptions options;
  options.query_adapter = folder.path() / "adapter";
  const auto plain = Embedder::load(model.string());
  const auto tuned = Embedder::load(model.string(), options);
  EXPECT_EQ(tuned->content_hash(), plain->content_hash());
  EXPECT_EQ(tuned->embed_passages({"the sea"}), plain->embed_passages({"the sea"}));
  EXPECT_NE(tuned->embed_query("the sea"), plain->embed_query("the sea"));
  EXPECT_EQ(tuned->embed_queries({"the sea"}), tuned->embed_query("the sea"));
}

TEST(Embedder, AnAdapterOfBothSidesBindsTheIndexToIt) {
  const TemporaryFolder folder;
  const auto model = write_tiny_bert_folder(folder.path() / "bert", 3);
  save_some_adapter(folder.path() / "adapter", model, "");
  EmbedderOptions options;
  options.adapter = folder.path() / "adapter";
  const auto plain = Embedder::load(model.string());
  const std::shared_ptr<const Embedder> tuned = Embedder::load(model.string(), options);
  EXPECT_NE(tuned->content_hash(), plain->content_hash());
  EXPECT_NE(tuned->embed_passages({"the sea"}), plain->embed_passages({"the sea"}));
  EXPECT_EQ(tuned->embed_query("the sea"), tuned->embed_passages({"the sea"}));

  StoreManifest manifest;
  manifest.embedder_name = model.string();
  manifest.embedder_hash = tuned->content_hash();
  manifest.dim = tuned->dim();
  const auto index = folder.path() / "index";
  keep_index_adapter(options.adapter, index);
  PassageStore::create(index / kStoreFileName, manifest);
  std::filesystem::remove_all(folder.path() / "adapter");
  EXPECT_EQ(load_index_embedder(index)->content_hash(), tuned->content_hash());
  Retriever::open(index, tuned);
  std::filesystem::remove_all(index / kIndexAdapterFolder);
  try {
    Retriever::open(index, load_index_embedder(index));
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("made with the embedder"), std::string::npos)
        << error.what();
  }
}

TEST(Embedder, AnIndexFindsItsModelWhereItWasAndElseByName) {
  const TemporaryFolder folder;
  const auto model = write_tiny_bert_folder(folder.path() / "bert", 3);
  StoreManifest manifest;
  manifest.embedder_name = "not-installed";
  const auto embedder = Embedder::load(model.string());
  manifest.embedder_path = embedder->path();
  manifest.embedder_hash = embedder->content_hash();
  manifest.dim = embedder->dim();
  const auto index = folder.path() / "index";
  std::filesystem::create_directories(index);
  PassageStore::create(index / kStoreFileName, manifest);
  EXPECT_EQ(load_index_embedder(index)->content_hash(), manifest.embedder_hash);
  std::filesystem::rename(model, folder.path() / "elsewhere");
  try {
    load_index_embedder(index);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_NE(std::string(error.what()).find("not-installed"), std::string::npos) << error.what();
  }
}

TEST(Embedder, WhatIsNoAdapterIsNotKept) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder.path() / "empty");
  try {
    keep_index_adapter(folder.path() / "empty", folder.path() / "index");
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("no adapter, it lacks adapter_config.json"),
              std::string::npos)
        << error.what();
  }
  EXPECT_TRUE(index_adapter(folder.path() / "index").empty());
}

TEST(Embedder, AQueryAdapterOfAnotherModelIsRefused) {
  const TemporaryFolder folder;
  const auto model = write_tiny_bert_folder(folder.path() / "bert", 3);
  save_some_adapter(folder.path() / "adapter", model, std::string(64, 'a'));
  EmbedderOptions options;
  options.query_adapter = folder.path() / "adapter";
  try {
    Embedder::load(model.string(), options);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("was trained on 'some-bert'"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace quarry
