#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "data/core/error.h"
#include "data/store/passage_store.h"
#include "finetune/run.h"
#include "retriever/embedder.h"
#include "retriever/vector_sync.h"
#include "tests/support/read_file.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry::test {

constexpr int kPlaces = 12;

// Tiny models, an index of a passage for each of kPlaces places and a question about each, for runs
// of the recipes that find passages.
class PlacesTest : public ::testing::Test {
 protected:
  PlacesTest()
      : model_(write_tiny_llama_gguf(folder_.path(), 3)),
        bert_(write_tiny_bert_folder(folder_.path() / "bert", 4)) {
    std::ofstream rows(folder_.path() / "rows.jsonl");
    for (int i = 0; i < kPlaces; ++i) {
      rows << R"({"id": "r)" << i << R"(", "question": "What is place )" << i
           << R"( called?", "answer": "name )" << i * 7 << "\"}\n";
    }
    build_index();
  }

  void build_index() {
    const auto embedder = Embedder::load(bert_.string());
    StoreManifest manifest;
    manifest.embedder_name = bert_.string();
    manifest.embedder_hash = embedder->content_hash();
    manifest.dim = embedder->dim();
    std::filesystem::create_directories(folder_.path() / "index");
    const auto store = PassageStore::create(folder_.path() / "index" / kStoreFileName, manifest);
    store->begin();
    for (int i = 0; i < kPlaces; ++i) {
      Document document;
      document.uri = concat("/places/", i);
      document.title = concat("Place ", i);
      document.text = concat("Place ", i, " is called name ", i * 7, " by all.");
      Passage passage;
      passage.title = document.title;
      passage.text = document.text;
      passage.end = static_cast<int64_t>(document.text.size());
      store->put_document(document, {passage}, embedder->embed_passages({passage.text}).data());
    }
    store->commit();
  }

  FinetuneConfig config(const std::string& recipe, const std::string& out) const {
    FinetuneConfig config;
    config.recipe = recipe;
    config.model.path = model_.string();
    config.data.train = {(folder_.path() / "rows.jsonl").string()};
    config.passages.index = (folder_.path() / "index").string();
    config.passages.top_k = 3;
    config.adapter.r = 4;
    config.adapter.lora_dropout = 0.1;
    config.query_encoder.r = 4;
    config.training.max_seq_len = 512;
    config.training.micro_batch_tokens = 512;
    config.training.batch_size = 5;
    config.training.max_steps = 6;
    config.training.save_every = 2;
    config.output_dir = (folder_.path() / out).string();
    return config;
  }

  std::string weights(const std::string& adapter) const {
    return read_file(folder_.path() / adapter / "adapter_model.safetensors");
  }
  static std::string error_of(const FinetuneConfig& config, const FinetuneEvents& events = {}) {
    try {
      FinetuneRun(config).train(false, events);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  // Trains `config` to its end and once again, cut after step 3 and resumed in a folder of its own,
  // whose name it returns.
  std::string train_whole_and_cut(const FinetuneConfig& config) const {
    FinetuneRun(config).train(false, {});
    FinetuneConfig cut = config;
    cut.output_dir += "-cut";
    CancelFlag cancel;
    FinetuneEvents events;
    events.cancel = &cancel;
    events.on_step = [&](const StepResult& result, int64_t, double) {
      if (result.step == 3) cancel.cancel();
    };
    EXPECT_NE(error_of(cut, events).find("training: cancelled"), std::string::npos);
    EXPECT_EQ(FinetuneRun(cut).train(true, {}).steps, config.training.max_steps);
    return std::filesystem::path(cut.output_dir).filename().string();
  }

  TemporaryFolder folder_;
  std::filesystem::path model_;
  std::filesystem::path bert_;
};

}  // namespace quarry::test
