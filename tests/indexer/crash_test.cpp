#include <fcntl.h>
#include <gmock/gmock.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <map>
#include <set>
#include <thread>

#include "indexer/build.h"
#include "tests/data/store/store_fixture.h"
#include "tests/indexer/fake_embedder.h"

extern char** environ;

namespace quarry {
namespace {

namespace fs = std::filesystem;
using ::testing::IsEmpty;

constexpr int kFiles = 60;
constexpr std::chrono::seconds kUntilDone(60);

struct WriterRun {
  std::set<std::string> acknowledged;
  bool killed = false;
  std::chrono::microseconds lived{0};
};

// Starts the writer and kills it after `life` (never, when it ends before).
WriterRun run_writer(const std::vector<std::string>& words, std::chrono::microseconds life) {
  std::array<int, 2> pipe{};
  EXPECT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  std::vector<std::string> all = {QUARRY_CRASH_WRITER};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<char*> arguments;
  for (std::string& word : all) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe[1], STDOUT_FILENO);
  pid_t child = 0;
  EXPECT_EQ(::posix_spawn(&child, all[0].c_str(), &actions, nullptr, arguments.data(), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  ::close(pipe[1]);
  std::string output;
  std::thread reader([&] {
    std::array<char, 4096> buffer;
    ssize_t n = 0;
    while ((n = ::read(pipe[0], buffer.data(), buffer.size())) > 0) {
      output.append(buffer.data(), static_cast<size_t>(n));
    }
  });
  const auto started = std::chrono::steady_clock::now();
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() - started >= life) ::kill(child, SIGKILL);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  reader.join();
  ::close(pipe[0]);
  WriterRun run;
  run.killed = WIFSIGNALED(status);
  run.lived = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - started);
  EXPECT_TRUE(run.killed || WEXITSTATUS(status) == 0) << output;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) run.acknowledged.insert(line);
  return run;
}

class CrashTest : public ::testing::Test {
 protected:
  fs::path index() const { return folder_ / "index"; }
  fs::path corpus() const { return folder_ / "corpus"; }

  // What a file says in one version; the last word is found nowhere else.
  static std::string text_of(const std::string& name, int version) {
    std::string text;
    for (int i = 0; i < 30; ++i) text += "Filler sentence number " + std::to_string(i) + ". ";
    return text + "Only " + name + "v" + std::to_string(version) + ".";
  }

  void write_files(const fs::path& folder, const std::string& prefix, int version) {
    fs::create_directories(folder);
    for (int i = 0; i < kFiles; ++i) {
      const std::string name = prefix + std::to_string(i);
      write_bytes(folder / name, text_of(name, version));
    }
  }

  // The store opens, is sound, and each document is whole: its text is one of `allowed`.
  std::map<std::string, std::string> check_store(const std::set<int>& allowed_versions) const {
    std::map<std::string, std::string> texts;
    const auto store = PassageStore::open(store_path(index()), PassageStore::Mode::kReadWrite);
    EXPECT_THAT(store->verify(), IsEmpty());
    for (const auto& [uri, hash] : store->list_documents("")) {
      const std::string name = fs::path(uri).filename().string();
      const std::string text = store->document(uri)->text;
      bool whole = false;
      for (const int version : allowed_versions) {
        if (text != text_of(name, version)) continue;
        whole = true;
        EXPECT_EQ(store->search_text(name + "v" + std::to_string(version), 5).size(), 1U) << uri;
      }
      EXPECT_TRUE(whole) << uri;
      texts[uri] = text;
    }
    return texts;
  }

  // Runs a command and kills it at a random moment of the time it is known to take.
  WriterRun run_and_kill(const std::vector<std::string>& words) {
    std::chrono::microseconds& takes = takes_.try_emplace(words[0], 50000).first->second;
    const WriterRun run = run_writer(
        words, std::chrono::microseconds(random_() % static_cast<size_t>(takes.count())));
    if (run.killed) {
      ++killed_;
      takes += takes / 16;
    } else {
      takes = run.lived;
    }
    return run;
  }

  TemporaryFolder folder_;
  std::mt19937 random_{2024};
  std::map<std::string, std::chrono::microseconds> takes_;
  int killed_ = 0;
};

TEST_F(CrashTest, BuildFromNothingKilledAtRandomMoments) {
  write_files(corpus(), "f", 1);
  for (int trial = 0; killed_ < 15; ++trial) {
    ASSERT_LT(trial, 200) << "the kills come too late";
    SCOPED_TRACE(trial);
    fs::remove_all(index());
    const WriterRun run = run_and_kill({"build", index().string(), corpus().string()});
    if (fs::exists(store_path(index()))) {
      const auto texts = check_store({1});
      for (const std::string& uri : run.acknowledged) EXPECT_EQ(texts.count(uri), 1U) << uri;
    } else {
      EXPECT_TRUE(run.acknowledged.empty());
    }
    if (trial % 5 == 0) {  // the same command goes on from there
      run_writer({"build", index().string(), corpus().string()}, kUntilDone);
      EXPECT_EQ(check_store({1}).size(), static_cast<size_t>(kFiles));
    }
  }
}

TEST_F(CrashTest, RebuildAddAndRemoveKilledAtRandomMoments) {
  write_files(corpus(), "f", 1);
  run_writer({"build", index().string(), corpus().string()}, kUntilDone);
  ASSERT_EQ(check_store({1}).size(), static_cast<size_t>(kFiles));
  int version = 1;
  std::map<std::string, std::string> before = check_store({1});
  std::set<int> versions = {1};
  for (int trial = 0; killed_ < 35; ++trial) {
    ASSERT_LT(trial, 400) << "the kills come too late";
    SCOPED_TRACE(trial);
    const fs::path extra = folder_ / ("extra" + std::to_string(trial / 3));
    WriterRun run;
    if (trial % 3 == 0) {
      versions.insert(++version);
      write_files(corpus(), "f", version);
      run = run_and_kill({"build", index().string(), corpus().string()});
    } else if (trial % 3 == 1) {
      write_files(extra, "x" + std::to_string(trial) + "n", version);
      run = run_and_kill({"add", index().string(), extra.string()});
    } else {
      const auto first = before.lower_bound(corpus().string() + "/");
      if (first == before.end() || fs::path(first->first).parent_path() != corpus()) continue;
      run = run_and_kill({"rm", index().string(), corpus().string()});
    }
    const auto after = check_store(versions);
    for (const std::string& uri : run.acknowledged) {
      if (trial % 3 == 2) {
        EXPECT_EQ(after.count(uri), 0U) << uri << " was removed";
      } else {
        ASSERT_EQ(after.count(uri), 1U) << uri;
        EXPECT_EQ(after.at(uri), text_of(fs::path(uri).filename().string(), version));
      }
    }
    for (const auto& [uri, text] : before) {
      if (trial % 3 != 2) {
        EXPECT_EQ(after.count(uri), 1U) << uri << " was lost";
      }
    }
    before = after;
  }
}

}  // namespace
}  // namespace quarry
