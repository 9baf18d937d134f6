// Processes that train and index together, as a launcher starts them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <thread>

#include "data/core/json.h"
#include "data/store/passage_store.h"
#include "generator/weights/safetensors_file.h"
#include "retriever/vector_sync.h"
#include "tests/integration/program.h"
#include "tests/support/free_port.h"
#include "tests/support/read_file.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry::testing {
namespace {

using ::testing::HasSubstr;
using Words = std::vector<std::string>;

// The same command as each of the ranks.
std::vector<std::unique_ptr<StartedProgram>> start_ranks(const Words& arguments, int world_size) {
  const std::string port = std::to_string(test::free_port());
  std::vector<std::unique_ptr<StartedProgram>> ranks;
  for (int rank = 0; rank < world_size; ++rank) {
    ranks.push_back(std::make_unique<StartedProgram>(
        arguments, Words{"RANK=" + std::to_string(rank), "WORLD_SIZE=" + std::to_string(world_size),
                         "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + port, "OMP_NUM_THREADS=1"}));
  }
  return ranks;
}

void run_ranks(const Words& arguments, int world_size) {
  auto ranks = start_ranks(arguments, world_size);
  for (auto& rank : ranks) {
    const ProgramResult result = rank->wait();
    EXPECT_EQ(result.exit_code, 0) << result.errors;
  }
}

void run_alone(const Words& arguments) {
  const ProgramResult result = run_quarry(arguments, {"OMP_NUM_THREADS=1"});
  EXPECT_EQ(result.exit_code, 0) << result.errors;
}

class DistributedCli : public ::testing::Test {
 protected:
  DistributedCli()
      : model_(write_tiny_llama_gguf(folder_.path(), 3)),
        bert_(write_tiny_bert_folder(folder_.path() / "models" / "bert", 4)) {
    setenv("QUARRY_HOME", folder_.path().c_str(), 1);  // an index knows its embedder by name
    std::string rows;
    std::string labelled;
    for (int i = 0; i < 24; ++i) {
      const std::string number = std::to_string(i);
      const std::string name = "name " + std::to_string(i * 7);
      const std::string fact = "Place " + number + " is called " + name + " by all.";
      rows += R"({"id": "r)" + number + R"(", "question": "What is place )" + number +
              R"( called?", "answer": ")" + name + R"(", "context": ")" + fact + "\"}\n";
      labelled +=
          R"({"text": ")" + fact + R"(", "label": ")" + (i % 2 == 0 ? "even" : "odd") + "\"}\n";
      folder_.write("docs/" + number + ".txt", fact + "\n");
    }
    folder_.write("rows.jsonl", rows);
    folder_.write("labelled.jsonl", labelled);
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  // `settings`: fields as name=value.
  Words finetune(const std::string& out, int batch_size, const Words& settings = {},
                 const std::string& rows = "rows.jsonl") const {
    Words words = {"finetune",
                   "--train",
                   path(rows),
                   "--eval",
                   path(rows),
                   "--batch-size",
                   std::to_string(batch_size),
                   "--out",
                   path(out)};
    Words all = {"model.path=" + model_.string(), "adapter.r=4",
                 "training.max_steps=6",          "training.micro_batch_tokens=512",
                 "training.max_seq_len=512",      "training.eval_every=3",
                 "training.save_every=2"};
    all.insert(all.end(), settings.begin(), settings.end());
    for (const std::string& setting : all) words.insert(words.end(), {"--set", setting});
    return words;
  }
  std::vector<Json> metrics(const std::string& out) const {
    std::vector<Json> rows;
    std::istringstream lines(test::read_file(folder_.path() / out / "metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) rows.push_back(Json::parse(line));
    return rows;
  }
  void expect_same_losses(const std::string& one, const std::string& two) const {
    const std::vector<Json> left = metrics(one);
    const std::vector<Json> right = metrics(two);
    ASSERT_EQ(left.size(), right.size());
    ASSERT_FALSE(left.empty());
    for (size_t i = 0; i < left.size(); ++i) {
      for (const char* name : {"step", "phase", "sequences", "tokens", "targets"}) {
        EXPECT_EQ(left[i].value(name, Json()), right[i].value(name, Json())) << name;
      }
      EXPECT_NEAR(left[i].at("loss"), right[i].at("loss"), 1e-5) << left[i];
    }
  }
  void expect_same_adapter(const std::string& one, const std::string& two,
                           double most = 1e-5) const {
    const auto open = [this](const std::string& name) {
      return SafetensorsFile::open(folder_.path() / name / "adapter_model.safetensors");
    };
    const auto left = open(one);
    const auto right = open(two);
    double worst = 0.0;
    ASSERT_FALSE(left->tensors().empty());
    for (const TensorView& tensor : left->tensors()) {
      const auto count = static_cast<size_t>(tensor.num_elements());
      std::vector<float> a(count);
      std::vector<float> b(count);
      decode_tensor(tensor, a.data());
      decode_tensor(right->get(tensor.name), b.data());
      for (size_t i = 0; i < count; ++i) {
        worst = std::max(worst, std::fabs(double{a[i]} - double{b[i]}));
      }
    }
    EXPECT_LT(worst, most);
  }

  TemporaryFolder folder_;
  std::filesystem::path model_;
  std::filesystem::path bert_;
};

TEST_F(DistributedCli, TwoProcessesLearnWhatOneDoesAtTwiceTheBatch) {
  const Words exact = {"training.compute=f32"};
  run_alone(finetune("one", 8, exact));
  run_ranks(finetune("two", 4, exact), 2);
  expect_same_losses("one", "two");
  expect_same_adapter("one/last", "two/last");
  expect_same_adapter("one/best", "two/best");
}

// Both depend on how a step is cut into passes, and so the cut is that of one process.
TEST_F(DistributedCli, DropoutAndLowPrecisionAreThoseOfOneProcess) {
  const Words dropout = {"adapter.lora_dropout=0.1"};
  run_alone(finetune("one", 12, dropout));
  run_ranks(finetune("two", 6, dropout), 2);
  run_ranks(finetune("three", 4, dropout), 3);
  expect_same_losses("one", "two");
  expect_same_losses("one", "three");
  expect_same_adapter("one/last", "two/last");
  run_alone(finetune("alone", 12));
  run_ranks(finetune("together", 6), 2);
  expect_same_losses("alone", "together");
  expect_same_adapter("alone/last", "together/last");
}

TEST_F(DistributedCli, ClassifiersLearnTheSame) {
  const Words classify = {"recipe=classification", "model.path=" + bert_.string(),
                          "training.compute=f32"};
  run_alone(finetune("one", 8, classify, "labelled.jsonl"));
  run_ranks(finetune("two", 4, classify, "labelled.jsonl"), 2);
  expect_same_losses("one", "two");
  expect_same_adapter("one/last", "two/last");
}

TEST_F(DistributedCli, LatentPassagesTrainTheSame) {
  run_alone({"index", "build", path("index"), path("docs"), "--embedder", bert_.string()});
  for (const std::string recipe : {"rag-sequence", "rag-token"}) {
    const Words rag = {"recipe=" + recipe,
                       "passages.index=" + path("index"),
                       "passages.top_k=3",
                       "query_encoder.r=4",
                       "training.compute=f32",
                       std::string("rag.abstain=") + (recipe == "rag-sequence" ? "true" : "false")};
    run_alone(finetune(recipe + "-one", 6, rag));
    run_ranks(finetune(recipe + "-two", 3, rag), 2);
    expect_same_losses(recipe + "-one", recipe + "-two");
    expect_same_adapter(recipe + "-one/last", recipe + "-two/last");
    expect_same_adapter(recipe + "-one/last-query-encoder", recipe + "-two/last-query-encoder");
  }
}

TEST_F(DistributedCli, RetrieversLearnTheSame) {
  run_alone({"index", "build", path("index"), path("docs"), "--embedder", bert_.string()});
  const std::vector<std::pair<Words, std::string>> runs = {
      {{"recipe=contrastive", "model.path="}, "last-query-encoder"},
      {{"recipe=distill"}, "last-query-encoder"},
      {{"recipe=reranker", "model.path=" + bert_.string()}, "last"}};
  for (const auto& [recipe, adapter] : runs) {
    Words settings = {"passages.index=" + path("index"), "query_encoder.r=4",
                      "training.compute=f32"};
    settings.insert(settings.end(), recipe.begin(), recipe.end());
    const std::string name = recipe.front().substr(recipe.front().find('=') + 1);
    SCOPED_TRACE(name);
    run_alone(finetune(name + "-one", 6, settings));
    run_ranks(finetune(name + "-two", 3, settings), 2);
    expect_same_losses(name + "-one", name + "-two");
    expect_same_adapter(name + "-one/" + adapter, name + "-two/" + adapter);
  }
}

// An encoder that learns both sides, and what is done with it afterwards.
TEST_F(DistributedCli, APassageEncoderTrainsTheSameAndMakesAnIndex) {
  run_alone({"index", "build", path("index"), path("docs"), "--embedder", bert_.string()});
  const Words rag = {"recipe=rag-sequence", "passages.index=" + path("index"),
                     "passages.top_k=3",    "rag.train_passage_encoder=true",
                     "rag.over_retrieve=6", "rag.refresh_every=2",
                     "query_encoder.r=4",   "training.compute=f32"};
  const ProgramResult alone = run_quarry(finetune("one", 6, rag), {"OMP_NUM_THREADS=1"});
  EXPECT_EQ(alone.exit_code, 0) << alone.errors;
  EXPECT_THAT(alone.output,
              HasSubstr("quarry index reembed " + path("index") + " " + path("index-tuned") +
                        " --embedder-adapter " + path("one/best-query-encoder")));
  run_ranks(finetune("two", 3, rag), 2);
  expect_same_losses("one", "two");
  // AdamW divides by the gradient's own size: where that is nearly 0, the order of a sum shows.
  expect_same_adapter("one/last-query-encoder", "two/last-query-encoder", 3e-5);

  const auto reembed = [&](const std::string& index) {
    return Words{"index",
                 "reembed",
                 path("index"),
                 path(index),
                 "--embedder-adapter",
                 path("one/last-query-encoder")};
  };
  run_alone(reembed("tuned"));
  run_ranks(reembed("together"), 2);
  const auto tuned = [&](const char* name) {
    return PassageStore::open(folder_.path() / name / kStoreFileName,
                              PassageStore::Mode::kReadOnly);
  };
  const std::vector<int64_t> ids = tuned("tuned")->passages_where({});
  EXPECT_EQ(ids.size(), 24u);
  EXPECT_EQ(tuned("tuned")->vectors(ids), tuned("together")->vectors(ids));
  EXPECT_NE(tuned("tuned")->vectors({1}), tuned("index")->vectors({1}));
  EXPECT_EQ(run_quarry(reembed("tuned")).exit_code, 2);

  // The index searches, grows and trains with the adapter that it keeps.
  std::filesystem::remove_all(folder_.path() / "one/last-query-encoder");
  run_alone({"search", path("tuned"), "place 3", "--mode", "dense"});
  folder_.write("more.txt", "Place 99 is called far away.\n");
  run_alone({"index", "add", path("tuned"), path("more.txt")});
  Words further = rag;
  further[1] = "passages.index=" + path("tuned");
  run_alone(finetune("further", 6, further));
  const ProgramResult other =
      run_quarry({"index", "add", path("tuned"), path("more.txt"), "--embedder-adapter",
                  path("further/last-query-encoder")});
  EXPECT_NE(other.exit_code, 0);
  EXPECT_THAT(other.errors, HasSubstr("with its adapter if any"));

  run_alone({"index", "verify", path("tuned")});
  std::filesystem::remove_all(folder_.path() / "tuned/embedder-adapter");
  const ProgramResult damaged = run_quarry({"index", "verify", path("tuned")});
  EXPECT_EQ(damaged.exit_code, 5);
  EXPECT_THAT(damaged.output, HasSubstr("searches would use another embedder: made with "));
}

TEST_F(DistributedCli, AnIndexIsThatOfOneProcess) {
  const auto build = [&](const std::string& index) {
    return Words{"index", "build", path(index), path("docs"), "--embedder", bert_.string()};
  };
  run_alone(build("one"));
  run_ranks(build("two"), 2);
  const auto one =
      PassageStore::open(folder_.path() / "one" / kStoreFileName, PassageStore::Mode::kReadOnly);
  const auto two =
      PassageStore::open(folder_.path() / "two" / kStoreFileName, PassageStore::Mode::kReadOnly);
  ASSERT_EQ(two->stats().passages, 24);
  std::vector<int64_t> ids;
  for (int64_t id = 1; id <= 24; ++id) ids.push_back(id);
  EXPECT_EQ(one->vectors(ids), two->vectors(ids));
  const auto left = one->passages(ids);
  const auto right = two->passages(ids);
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(left[i].text, right[i].text);
  EXPECT_EQ(run_quarry({"index", "verify", path("two")}).exit_code, 0);
  // A second build has nothing to embed.
  run_ranks(build("two"), 2);
}

// Waits for a line of metrics.jsonl after which there is more to do.
void wait_for_step(const std::filesystem::path& metrics, int step) {
  const std::string wanted = "{\"step\":" + std::to_string(step) + ",";
  for (int i = 0; i < 3000; ++i) {
    if (test::read_file(metrics).find(wanted) != std::string::npos) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ADD_FAILURE() << metrics << " never came to step " << step;
}

TEST_F(DistributedCli, AKilledWorkerEndsTheRunAndResumeFinishesIt) {
  const auto options = [&](const std::string& out) {
    return finetune(out, 4, {"training.max_steps=40", "training.eval_every=1000"});
  };
  run_ranks(options("whole"), 2);
  for (const int victim : {1, 0}) {
    const std::string out = "killed" + std::to_string(victim);
    auto ranks = start_ranks(options(out), 2);
    wait_for_step(folder_.path() / out / "metrics.jsonl", 5);
    ranks[static_cast<size_t>(victim)]->send(SIGKILL);
    const auto start = std::chrono::steady_clock::now();
    const ProgramResult result = ranks[static_cast<size_t>(1 - victim)]->wait();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
    EXPECT_EQ(result.exit_code, 6);
    EXPECT_THAT(result.errors, HasSubstr("rank " + std::to_string(victim) + " of 2 was lost; "));
    EXPECT_THAT(result.errors, HasSubstr("the same command with --resume continues from it"));
    Words resumed = options(out);
    resumed.push_back("--resume");
    run_ranks(resumed, 2);
    expect_same_losses("whole", out);
    EXPECT_EQ(test::read_file(folder_.path() / out / "last" / "adapter_model.safetensors"),
              test::read_file(folder_.path() / "whole" / "last" / "adapter_model.safetensors"));
  }
}

TEST_F(DistributedCli, AnotherNumberOfProcessesResumesTheSameBatch) {
  const Words exact = {"training.compute=f32"};
  run_alone(finetune("whole", 8, exact));
  auto ranks = start_ranks(finetune("cut", 4, exact), 2);
  wait_for_step(folder_.path() / "cut" / "metrics.jsonl", 2);
  ranks[1]->send(SIGTERM);
  for (auto& rank : ranks) rank->wait();
  Words alone = finetune("cut", 8, exact);
  alone.push_back("--resume");
  run_alone(alone);
  expect_same_losses("whole", "cut");
  expect_same_adapter("whole/last", "cut/last");
}

TEST_F(DistributedCli, WhatEndsOneRankIsToldByTheOthers) {
  const std::string port = std::to_string(test::free_port());
  const auto start = [&](int rank, const std::string& learning_rate) {
    return StartedProgram(finetune("run", 4, {"training.learning_rate=" + learning_rate}),
                          {"RANK=" + std::to_string(rank), "WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1",
                           "MASTER_PORT=" + port});
  };
  StartedProgram first = start(0, "1e-3");
  StartedProgram second = start(1, "2e-3");
  EXPECT_THAT(second.wait().errors, HasSubstr("rank 1 has other options, data or another version"));
  const ProgramResult result = first.wait();
  EXPECT_EQ(result.exit_code, 6);
  EXPECT_THAT(result.errors, HasSubstr("rank 1 of 2 ended: rank 1 has other options"));
}

}  // namespace
}  // namespace quarry::testing
