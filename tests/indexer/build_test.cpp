#include "indexer/build.h"

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>

#include "indexer/walk.h"
#include "tests/data/store/store_fixture.h"
#include "tests/indexer/fake_embedder.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class BuildTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(corpus() / "sub");
    write_bytes(corpus() / "a.txt", "Apples grow on trees.");
    write_bytes(corpus() / "b.md", "# Bees\nBees make honey.\n\n## Hives\nHives are boxes.\n");
    write_bytes(
        corpus() / "sub" / "c.jsonl",
        "{\"id\":\"x\",\"text\":\"Cats sleep.\"}\n{\"id\":\"y\",\"text\":\"Cows chew.\"}\n");
  }

  fs::path corpus() const { return folder_ / "corpus"; }
  fs::path index() const { return folder_ / "index"; }

  IndexOptions options(const std::vector<fs::path>& paths) const {
    IndexOptions options;
    options.index = index();
    options.paths = paths;
    return options;
  }
  IndexReport build(const IndexOptions& options) {
    SilentProgress progress;
    return build_store(options, embedder_, progress, cancel_);
  }
  IndexReport build() { return build(options({corpus()})); }

  std::unique_ptr<PassageStore> open() const {
    return PassageStore::open(store_path(index()), PassageStore::Mode::kReadOnly);
  }
  std::vector<std::string> uris() const {
    std::vector<std::string> names;
    for (const auto& [uri, hash] : open()->list_documents("")) {
      names.push_back(uri.substr(folder_.path().string().size() + 1));
    }
    return names;
  }
  IndexReport remove(const std::vector<std::string>& targets) {
    RemoveOptions remove_options;
    remove_options.index = index();
    remove_options.targets = targets;
    return remove_documents(remove_options, cancel_);
  }

  TemporaryFolder folder_;
  FakeEmbedder embedder_;
  CancelFlag cancel_;
};

TEST_F(BuildTest, IndexesAFolder) {
  const IndexReport report = build();
  EXPECT_EQ(report.documents_added, 4);
  EXPECT_EQ(report.passages_embedded, 5);
  EXPECT_EQ(report.skipped, 0);
  EXPECT_FALSE(report.cancelled);
  EXPECT_EQ(report.stats.documents, 4);
  EXPECT_THAT(uris(), ElementsAre("corpus/a.txt", "corpus/b.md", "corpus/sub/c.jsonl#x",
                                  "corpus/sub/c.jsonl#y"));
  const auto store = open();
  EXPECT_THAT(store->verify(), IsEmpty());
  EXPECT_EQ(store->manifest().embedder_name, "fake");
  EXPECT_EQ(store->manifest().chunk_tokens, 250);
  const auto hits = store->search_text("hive", 5);
  ASSERT_THAT(hits, SizeIs(1));
  EXPECT_EQ(store->passages({hits[0].passage_id})[0].heading, "Hives");
  EXPECT_EQ(load_sources(*store).at(0).path, corpus().string());
}

TEST_F(BuildTest, SecondRunEmbedsNothingAndWritesNothing) {
  const int64_t generation = build().stats.generation;
  embedder_.embedded = 0;
  const IndexReport report = build(options({}));
  EXPECT_EQ(embedder_.embedded, 0);
  EXPECT_EQ(report.documents_unchanged, 4);
  EXPECT_EQ(report.documents_added + report.documents_changed + report.documents_removed, 0);
  EXPECT_EQ(report.stats.generation, generation);
}

TEST_F(BuildTest, FollowsChangesAndRemovals) {
  build();
  write_bytes(corpus() / "a.txt", "Apricots grow on trees.");
  fs::remove(corpus() / "b.md");
  write_bytes(corpus() / "sub" / "c.jsonl", "{\"id\":\"y\",\"text\":\"Cows chew.\"}\n");
  write_bytes(corpus() / "d.rst", "Ducks swim.");
  const IndexReport report = build(options({}));
  EXPECT_EQ(report.documents_added, 1);
  EXPECT_EQ(report.documents_changed, 1);
  EXPECT_EQ(report.documents_removed, 2);
  EXPECT_EQ(report.documents_unchanged, 1);
  EXPECT_THAT(uris(), ElementsAre("corpus/a.txt", "corpus/d.rst", "corpus/sub/c.jsonl#y"));
  EXPECT_THAT(open()->search_text("apples", 5), IsEmpty());
  EXPECT_THAT(open()->verify(), IsEmpty());
}

TEST_F(BuildTest, AddKeepsWhatIsGone) {
  build();
  fs::remove(corpus() / "b.md");
  write_bytes(folder_ / "e.txt", "Eels.");
  IndexOptions add = options({corpus(), folder_ / "e.txt"});
  add.missing = Missing::kKeep;
  EXPECT_EQ(build(add).documents_removed, 0);
  EXPECT_THAT(uris(), Contains("corpus/b.md"));
  EXPECT_THAT(uris(), Contains("e.txt"));
}

TEST_F(BuildTest, ABuildOfOneSourceLeavesTheOthersAlone) {
  build();
  fs::remove(corpus() / "b.md");
  write_bytes(folder_ / "e.txt", "Eels.");
  EXPECT_EQ(build(options({folder_ / "e.txt"})).documents_removed, 0);
  EXPECT_THAT(uris(), Contains("corpus/b.md"));
  EXPECT_EQ(build(options({})).documents_removed, 1) << "all remembered sources";
  EXPECT_THAT(load_sources(*open()), SizeIs(2));
}

TEST_F(BuildTest, TheSameInputGivesTheSameIds) {
  for (int i = 0; i < 40; ++i) {
    write_bytes(corpus() / ("n" + std::to_string(i)), "Text number " + std::to_string(i));
  }
  const auto contents = [this](const std::string& name, int64_t batch) {
    IndexOptions build_options = options({corpus()});
    build_options.index = folder_ / name;
    build_options.embed_batch = batch;
    build(build_options);
    const auto store =
        PassageStore::open(store_path(build_options.index), PassageStore::Mode::kReadOnly);
    std::vector<std::string> lines;
    store->for_each_vector(0, [&](int64_t id, const float* vector) {
      lines.push_back(concat(id, " ", store->passages({id})[0].text, " ", vector[0]));
    });
    return lines;
  };
  const std::vector<std::string> first = contents("one", 256);
  EXPECT_THAT(first, SizeIs(45));
  EXPECT_EQ(first, contents("two", 7));
}

TEST_F(BuildTest, IncludeAndExcludePatterns) {
  IndexOptions some = options({corpus()});
  some.include = {"*.md", "sub/*"};
  build(some);
  EXPECT_THAT(uris(), ElementsAre("corpus/b.md", "corpus/sub/c.jsonl#x", "corpus/sub/c.jsonl#y"));
  IndexOptions others = options({corpus()});
  others.exclude = {"sub"};
  EXPECT_EQ(build(others).documents_removed, 2) << "what the patterns no longer take is removed";
  EXPECT_THAT(uris(), ElementsAre("corpus/a.txt", "corpus/b.md"));
}

TEST_F(BuildTest, APatternFromTheRootLeavesOutNothingElse) {
  fs::create_directories(corpus() / "sub" / "deep");
  write_bytes(corpus() / "sub" / "a.txt", "Another a.");
  write_bytes(corpus() / "sub" / "deep" / "sub", "A file called sub.");
  IndexOptions anchored = options({corpus()});
  anchored.exclude = {"/a.txt", "/deep"};
  build(anchored);
  EXPECT_THAT(uris(), ElementsAre("corpus/b.md", "corpus/sub/a.txt", "corpus/sub/c.jsonl#x",
                                  "corpus/sub/c.jsonl#y", "corpus/sub/deep/sub"));
  anchored.exclude = {"/sub"};
  build(anchored);
  EXPECT_THAT(uris(), ElementsAre("corpus/a.txt", "corpus/b.md"));
}

TEST_F(BuildTest, LoopsHiddenFilesAndTheIndexItselfAreLeftOut) {
  fs::create_directory_symlink(corpus(), corpus() / "sub" / "loop");
  write_bytes(corpus() / ".hidden.txt", "secret");
  fs::create_directory(corpus() / ".git");
  write_bytes(corpus() / ".git" / "x.txt", "secret");
  IndexOptions inside = options({corpus()});
  inside.index = corpus() / "index";
  build(inside);
  EXPECT_EQ(build(inside).stats.documents, 4);
}

TEST_F(BuildTest, WhatCannotBeIndexedIsReported) {
  write_bytes(corpus() / "empty.txt", "");
  write_bytes(corpus() / "image.png", std::string("\x89PNG\0\0", 6));
  fs::create_symlink("/nowhere", corpus() / "dangling.txt");
  write_bytes(corpus() / "latin.txt", "caf\xe9 and a longer text around it");
  const IndexReport report = build();
  EXPECT_EQ(report.skipped, 3);
  std::vector<std::string> lines;
  for (const Skip& skip : report.skips) {
    lines.push_back(fs::path(skip.uri).filename().string() + ": " + skip.reason);
  }
  EXPECT_THAT(lines, ::testing::UnorderedElementsAre("empty.txt: empty",
                                                     "image.png: binary, of no known format",
                                                     "dangling.txt: No such file or directory"));
  EXPECT_THAT(report.warnings, ElementsAre(HasSubstr("latin.txt: is not UTF-8")));
}

TEST_F(BuildTest, AnUnreadableFolderIsReportedAndItsDocumentsStay) {
  const uid_t user = ::geteuid();
  constexpr uid_t kNobody = 65534;
  if (user == 0) {  // root reads everything: do this as somebody else
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path())) {
      ASSERT_EQ(::chown(entry.path().c_str(), kNobody, kNobody), 0);
    }
    ASSERT_EQ(::chown(folder_.path().c_str(), kNobody, kNobody), 0);
    ASSERT_EQ(::seteuid(kNobody), 0);
  }
  build();
  fs::permissions(corpus() / "sub", fs::perms::none);
  const IndexReport report = build();
  fs::permissions(corpus() / "sub", fs::perms::owner_all);
  fs::permissions(corpus() / "a.txt", fs::perms::none);
  const IndexReport file_report = build();
  ASSERT_EQ(::seteuid(user), 0);
  ASSERT_THAT(report.skips, SizeIs(1));
  EXPECT_EQ(report.skips[0].uri, (corpus() / "sub").string());
  EXPECT_EQ(report.skips[0].reason, "Permission denied");
  EXPECT_EQ(report.documents_removed, 0);
  ASSERT_THAT(file_report.skips, SizeIs(1));
  EXPECT_EQ(file_report.skips[0].reason, "Permission denied");
  EXPECT_EQ(file_report.stats.documents, 4);
}

TEST_F(BuildTest, AnotherEmbedderOrChunkSizeIsRefused) {
  build();
  SilentProgress progress;
  const FakeEmbedder other("another-hash-22");
  const Error error = error_of([&] { build_store(options({}), other, progress, cancel_); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(error.what(), HasSubstr("made with the embedder fake (fake-hash-00), not with fake "
                                      "(another-hash): use the first, with its adapter if any"));
  IndexOptions small = options({});
  small.chunk_tokens = 100;
  EXPECT_THAT(error_of([&] { build(small); }).what(),
              HasSubstr("made with chunks of 250 tokens, asked for 100"));
  small.index = folder_ / "new";
  small.paths = {corpus()};
  small.chunk_tokens = 300;
  EXPECT_THAT(error_of([&] { build(small); }).what(),
              HasSubstr("chunks of 300 tokens: wanted 16 to 254"));
  EXPECT_FALSE(fs::exists(folder_ / "new"));
}

TEST_F(BuildTest, MissingPathsAreNamed) {
  const Error error = error_of([&] { build(options({corpus() / "none"})); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_THAT(error.what(), HasSubstr("corpus/none: No such file"));
  EXPECT_THAT(error_of([&] { build(options({})); }).what(), HasSubstr("no paths given and none"));
}

TEST_F(BuildTest, ARememberedSourceThatIsGoneKeepsItsDocuments) {
  build();
  fs::rename(corpus(), folder_ / "away");
  const IndexReport report = build(options({}));
  EXPECT_EQ(report.documents_removed, 0);
  EXPECT_EQ(report.stats.documents, 4);
  ASSERT_THAT(report.skips, SizeIs(1));
  EXPECT_THAT(report.skips[0].reason, HasSubstr("gone; its documents are kept"));
}

TEST_F(BuildTest, AnAddedFileThatIsGoneFromARememberedFolderIsRemoved) {
  build();
  write_bytes(corpus() / "d.txt", "Ducks swim.");
  build(options({corpus() / "d.txt"}));
  ASSERT_THAT(load_sources(*open()), SizeIs(2));
  fs::remove(corpus() / "d.txt");
  const IndexReport report = build(options({}));
  EXPECT_EQ(report.documents_removed, 1);
  EXPECT_THAT(report.skips, IsEmpty());
  EXPECT_EQ(report.stats.documents, 4);
  EXPECT_THAT(load_sources(*open()), SizeIs(1));
}

TEST_F(BuildTest, RemovesByUriByPathAndForgetsTheSource) {
  build();
  EXPECT_EQ(remove({(corpus() / "sub" / "c.jsonl").string() + "#x"}).documents_removed, 1);
  EXPECT_EQ(remove({(corpus() / "sub").string() + "/"}).documents_removed, 1);
  const Error error = error_of([&] { remove({(corpus() / "a").string()}); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound) << "a.txt is not below a";
  EXPECT_THAT(error.what(), HasSubstr("corpus/a: no document of this uri"));
  EXPECT_THAT(load_sources(*open()), SizeIs(1));
  EXPECT_EQ(remove({corpus().string()}).documents_removed, 2);
  EXPECT_THAT(load_sources(*open()), IsEmpty());
  EXPECT_THAT(uris(), IsEmpty());
  EXPECT_THAT(open()->verify(), IsEmpty());
}

TEST_F(BuildTest, ARemovalTellsWhatTheNextBuildFindsAgain) {
  write_bytes(corpus() / "sub" / "gone.txt", "Soon gone.");
  build();
  const auto returning = [&](const fs::path& target) { return remove({target}).returning; };
  const std::vector<ReturningDocuments> file = returning(corpus() / "a.txt");
  ASSERT_THAT(file, SizeIs(1));
  EXPECT_EQ(file[0].source.path, corpus().string());
  EXPECT_EQ(file[0].below_root, "a.txt");
  fs::remove(corpus() / "sub" / "gone.txt");
  EXPECT_THAT(returning(corpus() / "sub" / "gone.txt"), IsEmpty());
  const std::vector<ReturningDocuments> record = returning(corpus() / "sub" / "c.jsonl#x");
  ASSERT_THAT(record, SizeIs(1));
  EXPECT_EQ(record[0].below_root, "") << "no pattern names a record";
  const std::vector<ReturningDocuments> folder = returning(corpus() / "sub");
  ASSERT_THAT(folder, SizeIs(1));
  EXPECT_EQ(folder[0].below_root, "sub");
  EXPECT_EQ(build().documents_added, 3) << "a.txt and both records";

  IndexOptions without = options({corpus()});
  without.exclude = {"/a.txt"};
  build(without);
  IndexOptions alone = options({corpus() / "a.txt"});
  build(alone);
  EXPECT_THAT(returning(corpus() / "a.txt"), IsEmpty()) << "the folder leaves it out";
  EXPECT_THAT(returning(corpus()), IsEmpty()) << "the source is forgotten";
}

TEST_F(BuildTest, CancelKeepsWholeDocumentsAndTheNextRunGoesOn) {
  for (int i = 0; i < 100; ++i) {
    write_bytes(corpus() / ("n" + std::to_string(i)), "Text number " + std::to_string(i));
  }
  IndexOptions slow = options({corpus()});
  slow.embed_batch = 10;
  embedder_.before_embed = [this] {
    if (embedder_.embedded >= 50) cancel_.cancel();
  };
  const IndexReport report = build(slow);
  EXPECT_TRUE(report.cancelled);
  EXPECT_GE(report.documents_added, 50);
  EXPECT_LT(report.documents_added, 104);
  EXPECT_EQ(report.stats.documents, report.documents_added);
  EXPECT_THAT(open()->verify(), IsEmpty());
  const CancelFlag go_on;
  embedder_.before_embed = nullptr;
  SilentProgress progress;
  const IndexReport second = build_store(slow, embedder_, progress, go_on);
  EXPECT_EQ(second.documents_unchanged, report.documents_added);
  EXPECT_EQ(second.stats.documents, 104);
}

TEST_F(BuildTest, AnEmbedderThatFailsEndsTheBuildWithItsError) {
  embedder_.before_embed = [] { throw Error(ErrorCode::kUnavailable, "out of memory"); };
  EXPECT_STREQ(error_of([&] { build(); }).what(), "out of memory");
  embedder_.before_embed = nullptr;
  EXPECT_EQ(build().documents_added, 4);
}

TEST_F(BuildTest, ASecondWriterIsRefused) {
  build();
  const auto writer = PassageStore::open(store_path(index()), PassageStore::Mode::kReadWrite);
  EXPECT_THAT(error_of([&] { build(); }).what(), HasSubstr("is writing to this index"));
}

TEST_F(BuildTest, AFullDiskIsAnErrorAndTheIndexStaysSound) {
  build();
  for (int i = 0; i < 60; ++i) {
    std::string text;
    for (int word = 0; word < 2000; ++word) text += "w" + std::to_string(i * 2000 + word) + " ";
    write_bytes(corpus() / ("big" + std::to_string(i)), text);
  }
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 600000;
  setrlimit(RLIMIT_FSIZE, &small);
  IndexOptions often = options({corpus()});
  often.commit_bytes = 50000;
  const Error error = error_of([&] { build(often); });
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
  EXPECT_THAT(error.what(), HasSubstr("disk is full"));
  EXPECT_THAT(open()->verify(), IsEmpty());
  EXPECT_GE(open()->stats().documents, 4);
  EXPECT_EQ(build().stats.documents, 64) << "with room again the same command goes on";
}

TEST_F(BuildTest, ManySmallAndOneLargeDocumentPassSmallQueues) {
  std::string large;
  for (int i = 0; i < 20000; ++i) large += "Sentence number " + std::to_string(i) + " is here. ";
  write_bytes(corpus() / "large.txt", large);
  IndexOptions tight = options({corpus()});
  tight.queue_bytes = 1;
  tight.commit_bytes = 1;
  tight.embed_batch = 3;
  const IndexReport report = build(tight);
  EXPECT_EQ(report.stats.documents, 5);
  EXPECT_GT(report.passages_embedded, 300);
  EXPECT_THAT(open()->verify(), IsEmpty());
}

// Peak memory of this process so far, in bytes.
int64_t peak_memory() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

TEST_F(BuildTest, AOneGigabyteLineIsReportedInBoundedMemory) {
  const fs::path huge = corpus() / "huge.jsonl";
  write_bytes(huge, "{\"text\": \"");
  fs::resize_file(huge, int64_t{1} << 30);  // sparse: zeros to the end
  write_bytes(corpus() / "other.txt", "a");
  fs::resize_file(corpus() / "other.txt", int64_t{65} << 20);
  const int64_t before = peak_memory();
  const IndexReport report = build();
  EXPECT_LT(peak_memory() - before, int64_t{256} << 20);
  ASSERT_THAT(report.skips, SizeIs(2));
  EXPECT_THAT(report.skips[0].reason,
              HasSubstr("a line of 1073741824 bytes: the limit is 67108864"));
  EXPECT_THAT(report.skips[1].reason,
              HasSubstr("one document of 68157440 bytes: the limit is 67108864"));
  EXPECT_EQ(report.stats.documents, 4) << "the rest is indexed";
}

TEST(NormalPath, AbsoluteAndWithoutTrailingSlash) {
  EXPECT_EQ(normal_path("/a/b/../c/"), "/a/c");
  EXPECT_EQ(normal_path("/"), "/");
  EXPECT_EQ(normal_path("x"), fs::current_path() / "x");
}

}  // namespace
}  // namespace quarry
