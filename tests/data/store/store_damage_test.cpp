#include <gmock/gmock.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <csignal>

#include "tests/data/store/store_fixture.h"

namespace quarry {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class StoreDamage : public ::testing::Test {
 protected:
  std::filesystem::path path() const { return folder_ / "quarry.db"; }

  void SetUp() override {
    auto store = PassageStore::create(path(), test_manifest());
    store->begin();
    for (int i = 0; i < 12; ++i) {
      Document document = make_document("/" + std::to_string(i),
                                        "alpha beta " + std::to_string(i) + "\ngamma delta");
      document.metadata["n"] = std::to_string(i);
      put(*store, document, i);
    }
    store->commit();
  }

  // Everything a reader does. An Error is an answer; so is a result.
  void use_everything() const {
    try {
      const auto store = PassageStore::open(path(), PassageStore::Mode::kReadOnly);
      store->stats();
      store->search_text("alpha gamma", 50);
      store->list_documents("");
      store->document("/3");
      store->passages({1, 2, 3, 20});
      store->passages_where({{"n", "4"}});
      store->for_each_vector(0, [](int64_t, const float*) {});
      store->removed_since(0);
      store->verify();
    } catch (const Error& error) {
      EXPECT_THAT(error.code(), AnyOf(ErrorCode::kCorruptData, ErrorCode::kUnavailable))
          << error.what();
      EXPECT_THAT(error.what(), HasSubstr("quarry.db"));
    }
  }

  void clear_companions() const {
    for (const char* suffix : {"-wal", "-shm"}) std::filesystem::remove(path().string() + suffix);
  }

  TemporaryFolder folder_;
};

TEST_F(StoreDamage, EveryTruncationPointIsAnErrorOrSound) {
  const std::string whole = read_bytes(path());
  ASSERT_GT(whole.size(), 40000U);
  size_t step = 1;
  for (size_t size = 0; size < whole.size(); size += step) {
    if (size >= 1200) step = 509;  // the header byte by byte, then sampled
    clear_companions();
    write_bytes(path(), whole.substr(0, size));
    const Error error = error_of([this] {
      auto store = PassageStore::open(path(), PassageStore::Mode::kReadOnly);
      const std::vector<std::string> problems = store->verify();
      if (!problems.empty()) throw Error(ErrorCode::kCorruptData, problems.front());
    });
    EXPECT_EQ(error.code(), ErrorCode::kCorruptData) << size << ": " << error.what();
  }
}

TEST_F(StoreDamage, BitFlipsNeverCrash) {
  const std::string whole = read_bytes(path());
  std::mt19937 random(11);
  for (int trial = 0; trial < 1500; ++trial) {
    std::string damaged = whole;
    // Half of the trials hit the first pages, where the schema and the trees' roots are.
    const size_t range = trial % 2 == 0 ? 8192 : damaged.size();
    const int flips = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < flips; ++i) {
      damaged[random() % range] ^= static_cast<char>(1U << (random() % 8));
    }
    clear_companions();
    write_bytes(path(), damaged);
    SCOPED_TRACE(trial);
    use_everything();
  }
}

// A log that a killed writer left is replayed up to its last whole commit, whatever its bytes are.
TEST_F(StoreDamage, ADamagedLogGivesAnEarlierCommit) {
  const std::string wal = path().string() + "-wal";
  std::string main_bytes;
  std::string log_bytes;
  {
    auto store = PassageStore::open(path(), PassageStore::Mode::kReadWrite);
    for (int i = 0; i < 8; ++i) {
      store->begin();
      put(*store, make_document("/log" + std::to_string(i), "alpha logged"), 100 + i);
      store->commit();
    }
    main_bytes = read_bytes(path());
    log_bytes = read_bytes(wal);
  }
  ASSERT_GT(log_bytes.size(), 8000U);
  std::mt19937 random(12);
  for (int trial = 0; trial < 300; ++trial) {
    std::string damaged = log_bytes;
    if (trial % 2 == 0) {
      damaged.resize(random() % damaged.size());
    } else {
      damaged[random() % damaged.size()] ^= static_cast<char>(1U << (random() % 8));
    }
    clear_companions();
    write_bytes(path(), main_bytes);
    write_bytes(wal, damaged);
    const auto store = PassageStore::open(path(), PassageStore::Mode::kReadOnly);
    EXPECT_THAT(store->verify(), IsEmpty()) << trial;
    EXPECT_GE(store->stats().documents, 12) << trial;
    EXPECT_EQ(store->stats().generation, store->stats().documents - 11) << "whole commits only";
  }
}

TEST_F(StoreDamage, WrongTypesOfFileAreNamed) {
  const auto open_error = [this] {
    return error_of([this] { PassageStore::open(path(), PassageStore::Mode::kReadOnly); });
  };
  write_bytes(path(), "");
  EXPECT_THAT(open_error().what(), HasSubstr("damaged or not a store: 0 bytes"));
  write_bytes(path(), std::string(4096, 'x'));
  EXPECT_THAT(open_error().what(), HasSubstr("does not begin as an SQLite file"));
  std::filesystem::remove(path());
  EXPECT_EQ(open_error().code(), ErrorCode::kNotFound);
  EXPECT_THAT(open_error().what(), HasSubstr("no index here"));
  std::filesystem::create_directory(path());
  EXPECT_THAT(open_error().what(), HasSubstr("not a regular file"));
}

TEST_F(StoreDamage, ForeignAndNewerDatabasesAreNamed) {
  const auto open_error_after = [this](const char* sql) {
    sqlite3* raw = nullptr;
    sqlite3_open(path().c_str(), &raw);
    EXPECT_EQ(sqlite3_exec(raw, sql, nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(raw);
    return std::string(
        error_of([this] { PassageStore::open(path(), PassageStore::Mode::kReadWrite); }).what());
  };
  EXPECT_THAT(open_error_after("PRAGMA user_version=99"),
              HasSubstr("format version 99 is newer than this program's 1"));
  EXPECT_THAT(open_error_after("PRAGMA application_id=5"),
              HasSubstr("not a Quarry store (application id 5"));
}

void fill_until_error(PassageStore& store) {
  for (int i = 0; i < 1000; ++i) {
    store.begin();
    put(store, make_document("/big" + std::to_string(i), std::string(20000, 'y')));
    store.commit();
  }
}

void expect_sound_after_full_disk(const std::filesystem::path& path) {
  const auto store = PassageStore::open(path, PassageStore::Mode::kReadWrite);
  EXPECT_THAT(store->verify(), IsEmpty());
  EXPECT_EQ(store->search_text("alpha", 50).size(), 12U);
  EXPECT_GT(store->stats().documents, 12) << "commits before the disk was full are there";
}

TEST_F(StoreDamage, FileSizeLimitIsAnErrorAndLosesNothing) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  {
    auto store = PassageStore::open(path(), PassageStore::Mode::kReadWrite);
    rlimit small = before;
    small.rlim_cur = 300000;
    setrlimit(RLIMIT_FSIZE, &small);
    const Error error = error_of([&store] { fill_until_error(*store); });
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_THAT(error.what(), HasSubstr("the disk is full"));
    store->rollback();
    EXPECT_TRUE(store->document("/3").has_value());
  }
  expect_sound_after_full_disk(path());
}

TEST_F(StoreDamage, FullFileSystemIsAnErrorAndLosesNothing) {
  const std::filesystem::path mount_point = folder_ / "small";
  std::filesystem::create_directory(mount_point);
  if (::mount("none", mount_point.c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "a small tmpfs cannot be mounted here";
  }
  const std::filesystem::path small = mount_point / "quarry.db";
  std::filesystem::copy_file(path(), small);
  {
    auto store = PassageStore::open(small, PassageStore::Mode::kReadWrite);
    const Error error = error_of([&store] { fill_until_error(*store); });
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_THAT(error.what(), HasSubstr("small/quarry.db: disk full while"));
    store->rollback();
  }
  expect_sound_after_full_disk(small);
  ::umount(mount_point.c_str());
}

}  // namespace
}  // namespace quarry
