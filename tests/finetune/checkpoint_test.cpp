#include "finetune/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>

#include "data/core/paths.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

StateTensor float_tensor(const std::string& name, std::vector<int64_t> shape,
                         const std::vector<float>& values) {
  StateTensor tensor;
  tensor.name = name;
  tensor.shape = std::move(shape);
  if (values.empty()) return tensor;
  tensor.bytes.resize(values.size() * sizeof(float));
  std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

Checkpoint sample(int64_t step) {
  Checkpoint checkpoint;
  checkpoint.step = step;
  checkpoint.epoch = 2;
  checkpoint.data_position = 345;
  checkpoint.rng_state = 0xFEDCBA9876543210ULL;
  checkpoint.config_hash = "abc";
  checkpoint.extra["best_f1"] = 71.25;
  checkpoint.parameters = {
      float_tensor("a", {2, 3}, {1, -2, 3, 0.1F, 1e-40F, static_cast<float>(step)}),
      float_tensor("b", {0}, {})};
  StateTensor codes;
  codes.name = "a.exp_avg";
  codes.type = WeightType::kI8;
  codes.shape = {3};
  codes.bytes = {0, 128, 255};
  checkpoint.optimizer = {codes};
  return checkpoint;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return concat(error_code_name(error.code()), " ", error.what());
  }
  return "no error";
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST(Checkpoint, LoadsWhatWasSaved) {
  const test::TemporaryFolder run;
  const fs::path folder = save_checkpoint(run.path(), sample(7));
  EXPECT_EQ(folder, run.path() / "checkpoint-7");
  EXPECT_EQ(latest_checkpoint(run.path()), folder);
  const Checkpoint loaded = load_checkpoint(folder);
  const Checkpoint wanted = sample(7);
  EXPECT_EQ(loaded.step, 7);
  EXPECT_EQ(loaded.epoch, 2);
  EXPECT_EQ(loaded.data_position, 345);
  EXPECT_EQ(loaded.rng_state, wanted.rng_state);
  EXPECT_EQ(loaded.config_hash, "abc");
  EXPECT_EQ(loaded.extra, wanted.extra);
  ASSERT_EQ(loaded.parameters.size(), 2U);
  EXPECT_EQ(loaded.parameters[0].name, "a");
  EXPECT_EQ(loaded.parameters[0].shape, wanted.parameters[0].shape);
  EXPECT_EQ(loaded.parameters[0].bytes, wanted.parameters[0].bytes);
  EXPECT_TRUE(loaded.parameters[1].bytes.empty());
  ASSERT_EQ(loaded.optimizer.size(), 1U);
  EXPECT_EQ(loaded.optimizer[0].bytes, wanted.optimizer[0].bytes);
}

TEST(Checkpoint, SameStepIsReplacedAndOldOnesGo) {
  const test::TemporaryFolder run;
  SaveCheckpointOptions options;
  options.save_total_limit = 2;
  for (const int64_t step : {5, 50, 9, 100}) save_checkpoint(run.path(), sample(step), options);
  EXPECT_THAT(names_in(run.path()), ::testing::ElementsAre("checkpoint-100", "checkpoint-50"));
  Checkpoint changed = sample(100);
  changed.epoch = 3;
  save_checkpoint(run.path(), changed, options);
  EXPECT_EQ(load_checkpoint(run.path() / "checkpoint-100").epoch, 3);
  options.save_total_limit = 0;
  save_checkpoint(run.path(), sample(101), options);
  EXPECT_EQ(list_checkpoints(run.path()).size(), 3U);
}

TEST(Checkpoint, LatestPassesOverWhatIsIncomplete) {
  const test::TemporaryFolder run;
  EXPECT_FALSE(latest_checkpoint(run.path()));
  EXPECT_FALSE(latest_checkpoint(run.path() / "missing"));
  SaveCheckpointOptions keep_all;
  keep_all.save_total_limit = 0;
  for (const int64_t step : {1, 2, 3, 4}) save_checkpoint(run.path(), sample(step), keep_all);
  fs::remove(run.path() / "checkpoint-4" / "state.json");
  fs::resize_file(run.path() / "checkpoint-3" / "optimizer.safetensors", 20);
  fs::create_directory(run.path() / "checkpoint-9");
  fs::create_directory(run.path() / "checkpoint-x");
  fs::create_directory(run.path() / "checkpoint-8.tmp.abc123");
  EXPECT_EQ(latest_checkpoint(run.path()), run.path() / "checkpoint-2");
  save_checkpoint(run.path(), sample(5), keep_all);
  EXPECT_FALSE(fs::exists(run.path() / "checkpoint-8.tmp.abc123"));
}

TEST(Checkpoint, MoreFilesAreCheckedToo) {
  const test::TemporaryFolder run;
  SaveCheckpointOptions options;
  options.write_more = [](const fs::path& folder) {
    fs::create_directory(folder / "adapter");
    std::ofstream(folder / "adapter" / "config.json") << "{}";
  };
  const fs::path folder = save_checkpoint(run.path(), sample(1), options);
  EXPECT_EQ(load_checkpoint(folder).step, 1);
  std::ofstream(folder / "adapter" / "config.json") << "[]";
  EXPECT_THAT(message_of([&] { load_checkpoint(folder); }),
              HasSubstr("adapter/config.json: SHA-256 differs from that in state.json"));
  options.write_more = [](const fs::path&) { throw_error(ErrorCode::kInternal, "no adapter"); };
  EXPECT_THAT(message_of([&] { save_checkpoint(run.path(), sample(2), options); }),
              HasSubstr("checkpoint-2: not saved (earlier checkpoints are untouched): no adapter"));
  EXPECT_THAT(names_in(run.path()), ::testing::ElementsAre("checkpoint-1"));
}

TEST(Checkpoint, DamageIsNamed) {
  const test::TemporaryFolder run;
  const fs::path folder = save_checkpoint(run.path(), sample(1));
  const Json good = read_json_file(folder / "state.json");
  const auto refused = [&](const char* key, const Json& value) {
    Json state = good;
    state[key] = value;
    write_file_atomically(folder / "state.json", dump_json(state));
    return message_of([&] { load_checkpoint(folder); });
  };
  EXPECT_THAT(refused("step", -1), HasSubstr("state.json: step is -1, wanted a count"));
  EXPECT_THAT(refused("epoch", "x"), HasSubstr("state.json: epoch is \"x\", wanted a count"));
  EXPECT_THAT(refused("rng_state", nullptr), HasSubstr("rng_state is null"));
  EXPECT_THAT(refused("format", 2), HasSubstr("format 2, wanted 1"));
  EXPECT_THAT(refused("files", Json::array()), HasSubstr("no list of files"));
  EXPECT_THAT(refused("files", Json::object()),
              HasSubstr("parameters.safetensors is not in the list"));
  Json outside = good["files"];
  outside["../x"] = outside["optimizer.safetensors"];
  EXPECT_THAT(refused("files", outside), HasSubstr("the entry of file ../x is damaged"));
  EXPECT_EQ(refused("step", 1), "no error");
  fs::resize_file(folder / "parameters.safetensors", 24);
  EXPECT_THAT(message_of([&] { load_checkpoint(folder); }),
              HasSubstr("parameters.safetensors: 24 bytes, wanted"));
  EXPECT_THAT(message_of([&] { load_checkpoint(run.path() / "checkpoint-2"); }),
              HasSubstr("not_found"));
}

// Runs `body` in a child process; returns what it wrote to the descriptor it is given.
template <typename Body>
std::string in_child(const Body& body) {
  int ends[2];
  QUARRY_CHECK(::pipe(ends) == 0, ErrorCode::kInternal, "pipe");
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    body(ends[1]);
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string text;
  char buffer[512];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return text;
}

TEST(Checkpoint, FullDiskIsNamedAndLeavesTheLastOne) {
  const test::TemporaryFolder run;
  save_checkpoint(run.path(), sample(1));
  Checkpoint large = sample(2);
  large.parameters.push_back(float_tensor("large", {1 << 18}, std::vector<float>(1 << 18, 1.0F)));
  const std::string message = in_child([&](int fd) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1 << 16, 1 << 16};  // writes beyond it fail, as on a full disk
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string text = message_of([&] { save_checkpoint(run.path(), large); });
    [[maybe_unused]] const ssize_t n = ::write(fd, text.data(), text.size());
  });
  EXPECT_THAT(message, HasSubstr("unavailable"));
  EXPECT_THAT(message, HasSubstr("checkpoint-2: not saved (earlier checkpoints are untouched)"));
  EXPECT_THAT(message, HasSubstr("File too large"));
  EXPECT_THAT(names_in(run.path()), ::testing::ElementsAre("checkpoint-1"));
  EXPECT_EQ(load_checkpoint(*latest_checkpoint(run.path())).step, 1);
}

TEST(Checkpoint, KilledAtAnyMomentLeavesACompleteOne) {
  const test::TemporaryFolder run;
  int64_t last = 0;
  for (int round = 0; round < 12; ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      for (int64_t step = last + 1;; ++step) {
        save_checkpoint(run.path(), sample(step));
        if (::write(ends[1], &step, sizeof(step)) != sizeof(step)) ::_exit(1);
      }
    }
    ::close(ends[1]);
    int64_t acknowledged = 0;
    for (int i = 0; i <= round % 3; ++i) {
      ASSERT_EQ(::read(ends[0], &acknowledged, sizeof(acknowledged)),
                static_cast<ssize_t>(sizeof(acknowledged)));
    }
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ::close(ends[0]);
    const auto folder = latest_checkpoint(run.path());
    ASSERT_TRUE(folder);
    const Checkpoint loaded = load_checkpoint(*folder);
    EXPECT_GE(loaded.step, acknowledged);
    EXPECT_EQ(loaded.parameters[0].bytes, sample(loaded.step).parameters[0].bytes);
    last = loaded.step;
  }
}

TEST(Checkpoint, KilledWhileWritingLeavesTheOneBefore) {
  const test::TemporaryFolder run;
  save_checkpoint(run.path(), sample(1));
  SaveCheckpointOptions options;
  options.write_more = [](const fs::path&) { ::raise(SIGKILL); };
  in_child([&](int) { save_checkpoint(run.path(), sample(2), options); });
  EXPECT_EQ(names_in(run.path()).size(), 2U);  // the half-made one, under its other name
  EXPECT_EQ(latest_checkpoint(run.path()), run.path() / "checkpoint-1");
  save_checkpoint(run.path(), sample(2));
  EXPECT_THAT(names_in(run.path()), ::testing::ElementsAre("checkpoint-1", "checkpoint-2"));
}

}  // namespace
}  // namespace quarry
