#include "generator/decode/prefix_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>

#include "generator/decode/engine.h"
#include "tests/generator/decode/fake_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/read_file.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kPageBytes = 2 * kKvPageTokens * 4;  // one layer, width 1
constexpr int64_t kRoom = 1 << 20;

std::vector<int32_t> counted(int64_t n, int32_t from) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  std::iota(tokens.begin(), tokens.end(), from);
  return tokens;
}

void store(PrefixCache& prefixes, const std::vector<int32_t>& tokens) {
  KvCache cache(1, 1, 1, 100000, KvCache::ElementType::kFloat);
  const std::vector<float> rows(tokens.begin(), tokens.end());
  const int64_t n = static_cast<int64_t>(tokens.size());
  cache.reserve(n);
  for (const auto& page : cache.pages()) std::fill_n(page->data(), page->bytes(), uint8_t{0});
  cache.write(0, rows.data(), rows.data(), n, 1);
  cache.advance(n);
  prefixes.store(nullptr, tokens.data(), n, cache);
}

PrefixOrigin origin_of(const std::string& model) {
  PrefixOrigin origin;
  origin.facts = {{"model", model}};
  origin.page_bytes = kPageBytes;
  return origin;
}

// Tokens and bytes of every page, in order of use.
std::string contents(const PrefixCache& prefixes) {
  std::string text;
  for (const PrefixCache::Entry& entry : prefixes.entries()) {
    text += std::to_string(entry.parent) + ":";
    for (const int32_t token : entry.tokens) text += std::to_string(token) + " ";
    text.append(reinterpret_cast<const char*>(entry.page->data()),
                static_cast<size_t>(entry.page->bytes()));
  }
  return text;
}

class PrefixFile : public testing::Test {
 protected:
  PrefixFile() : path_(folder_.path() / "prefixes"), origin_(origin_of("m")), kept_(kRoom) {
    store(kept_, counted(66, 0));
    store(kept_, counted(3, 1000));
    std::vector<int32_t> branch = counted(64, 0);
    branch.push_back(7);
    store(kept_, branch);
    write_prefixes(path_, origin_, kept_);
  }

  std::string read(PrefixCache& prefixes) {
    return read_prefixes(path_, origin_, {nullptr}, prefixes);
  }

  test::TemporaryFolder folder_;
  std::filesystem::path path_;
  PrefixOrigin origin_;
  PrefixCache kept_;
};

TEST_F(PrefixFile, GivesBackPagesAndTheOrderOfTheirUse) {
  PrefixCache read_back(kRoom);
  EXPECT_THAT(read(read_back), IsEmpty());
  EXPECT_EQ(read_back.bytes(), 4 * kPageBytes);
  EXPECT_EQ(contents(read_back), contents(kept_));
  namespace fs = std::filesystem;
  EXPECT_EQ(fs::status(path_).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(PrefixFile, WithLessRoomWhatWasUsedLastIsTaken) {
  PrefixCache small(2 * kPageBytes);
  EXPECT_THAT(read(small), IsEmpty());
  EXPECT_EQ(small.bytes(), 2 * kPageBytes);
  EXPECT_EQ(contents(small), contents(kept_).substr(0, contents(small).size()));
}

TEST_F(PrefixFile, AMissingFileIsNoWarning) {
  std::filesystem::remove(path_);
  PrefixCache prefixes(kRoom);
  EXPECT_THAT(read(prefixes), IsEmpty());
  EXPECT_EQ(prefixes.bytes(), 0);
}

TEST_F(PrefixFile, AnotherOriginIsLeftAloneNamingBoth) {
  PrefixCache prefixes(kRoom);
  const std::string warning = read_prefixes(path_, origin_of("other"), {nullptr}, prefixes);
  EXPECT_THAT(warning, HasSubstr("model is 'm', wanted 'other'"));
  PrefixOrigin wider = origin_;
  wider.page_bytes *= 2;
  EXPECT_THAT(read_prefixes(path_, wider, {nullptr}, prefixes),
              HasSubstr("512 bytes, wanted 1024"));
  EXPECT_EQ(prefixes.bytes(), 0);
}

TEST_F(PrefixFile, PagesOfAnAdapterThatIsNotServedAreLeftOut) {
  PrefixCache prefixes(kRoom);
  EXPECT_THAT(read_prefixes(path_, origin_, {}, prefixes), IsEmpty());
  EXPECT_EQ(prefixes.bytes(), 0);
}

TEST_F(PrefixFile, CutShortAnywhereGivesAWarningAndNothing) {
  for (auto size = std::filesystem::file_size(path_); size-- > 0;) {
    std::filesystem::resize_file(path_, size);
    PrefixCache prefixes(kRoom);
    ASSERT_FALSE(read(prefixes).empty()) << size;
    ASSERT_EQ(prefixes.bytes(), 0) << size;
  }
}

TEST_F(PrefixFile, AFlippedBitGivesAWarningOrTheSame) {
  const std::string bytes = test::read_file(path_);
  const std::string wanted = contents(kept_);
  std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
  const auto put = [&](size_t at, char byte) {
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
    file.flush();
  };
  size_t num_unnoticed = 0;  // blanks of the header
  for (size_t at = 0; at < bytes.size(); ++at) {
    put(at, static_cast<char>(bytes[at] ^ (1 << (at % 8))));
    PrefixCache prefixes(kRoom);
    if (read(prefixes).empty()) {
      ASSERT_EQ(contents(prefixes), wanted) << at;
      ++num_unnoticed;
    } else {
      ASSERT_EQ(prefixes.bytes(), 0) << at;
    }
    put(at, bytes[at]);
  }
  EXPECT_LT(num_unnoticed, 8u);
}

TEST(PrefixCacheRestore, RefusesWhatIsNoTree) {
  const auto page = std::make_shared<KvPage>(kPageBytes);
  const auto refuses = [&](const std::vector<PrefixCache::Entry>& entries,
                           const std::string& message) {
    PrefixCache prefixes(kRoom);
    test::expect_error([&] { prefixes.restore(entries); }, ErrorCode::kCorruptData, message);
    EXPECT_EQ(prefixes.bytes(), 0);
  };
  const std::vector<int32_t> full = counted(kKvPageTokens, 0);
  refuses({{nullptr, -1, {}, page}}, "has 0 tokens");
  refuses({{nullptr, -1, counted(kKvPageTokens + 1, 0), page}}, "has 65 tokens");
  refuses({{nullptr, 0, full, page}}, "follows page 0, wanted one before it");
  refuses({{nullptr, -2, full, page}}, "follows page -2");
  refuses({{nullptr, -1, {1, 2}, page}, {nullptr, 0, {3}, page}}, "follows one that is not full");
  refuses({{nullptr, -1, {1, 2}, page}, {nullptr, -1, {1}, page}}, "begins like another");
}

TEST(EnginePrefixFile, ALaterEngineReadsOnFromThereAdaptersIncluded) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "prefixes";
  fake::write_adapter(folder.path() / "one", 1.0f);
  fake::write_adapter(folder.path() / "two", 2.0f);
  GenerateRequest base;
  base.prompt =
      fake::ByteTokenizer().encode(std::string(200, 'p') + "?", Tokenizer::SpecialTokens::kNone);
  GenerateRequest adapted = base;
  adapted.adapter = "one";
  std::string texts[2];
  const auto make_engine = [] {
    return std::make_unique<Engine>(
        fake::make_generator(std::make_unique<fake::Model>(fake::hashed_letters)), EngineOptions());
  };
  {
    const auto engine = make_engine();
    engine->adapters().load("one", folder.path() / "one");
    EXPECT_EQ(engine->load_prefixes(path).bytes, 0);
    texts[0] = engine->submit(base, nullptr).result.get().text;
    texts[1] = engine->submit(adapted, nullptr).result.get().text;
    EXPECT_GT(engine->save_prefixes(path), 0);
  }
  const auto engine = make_engine();
  engine->adapters().load("one", folder.path() / "two");  // the name is not what counts
  engine->adapters().load("same", folder.path() / "one");
  const Engine::LoadedPrefixes loaded = engine->load_prefixes(path);
  EXPECT_THAT(loaded.warning, IsEmpty());
  EXPECT_GT(loaded.bytes, 0);
  const GenerateResult first = engine->submit(base, nullptr).result.get();
  EXPECT_EQ(first.cached_tokens, 200);
  EXPECT_EQ(first.text, texts[0]);
  EXPECT_EQ(engine->submit(adapted, nullptr).result.get().cached_tokens, 0);
  adapted.adapter = "same";
  const GenerateResult second = engine->submit(adapted, nullptr).result.get();
  EXPECT_EQ(second.cached_tokens, 200);
  EXPECT_EQ(second.text, texts[1]);
  EXPECT_EQ(engine->stats().cached_tokens_total, 400);
}

class PrefixFileOverLlama : public testing::TestWithParam<kernels::Precision> {};

TEST_P(PrefixFileOverLlama, TheFirstTokenAfterARestartIsThatOfAFreshEngine) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "prefixes";
  const std::string model = write_tiny_llama_gguf(folder.path(), 3).string();
  const auto generate = [&](Engine& engine) {
    GenerateRequest request;
    for (int32_t i = 0; i < 150; ++i) request.prompt.push_back(i * i % 97);
    request.max_tokens = 8;
    request.top_logprobs = 3;
    return engine.submit(request, nullptr).result.get();
  };
  const auto load = [&] {
    return std::make_shared<const LoadedGenerator>(load_generator(model, GetParam()));
  };
  GenerateResult fresh;
  {
    Engine engine(load(), EngineOptions());
    fresh = generate(engine);
    engine.save_prefixes(path);
  }
  Engine engine(load(), EngineOptions());
  EXPECT_THAT(engine.load_prefixes(path).warning, IsEmpty());
  const GenerateResult again = generate(engine);
  EXPECT_EQ(again.cached_tokens, 149);
  EXPECT_EQ(again.tokens, fresh.tokens);
  ASSERT_FALSE(again.logprobs.empty());
  for (size_t i = 0; i < again.logprobs.size(); ++i) {
    EXPECT_EQ(again.logprobs[i].logprob, fresh.logprobs[i].logprob) << i;
  }
  const auto other = GetParam() == kernels::Precision::kFast8 ? kernels::Precision::kFast
                                                              : kernels::Precision::kFast8;
  Engine different(std::make_shared<const LoadedGenerator>(load_generator(model, other)),
                   EngineOptions());
  EXPECT_THAT(different.load_prefixes(path).warning, HasSubstr("wanted '"));
  EXPECT_EQ(generate(different).cached_tokens, 0);
}

INSTANTIATE_TEST_SUITE_P(Precisions, PrefixFileOverLlama,
                         testing::Values(kernels::Precision::kExact, kernels::Precision::kFast,
                                         kernels::Precision::kFast8));

}  // namespace
}  // namespace quarry
