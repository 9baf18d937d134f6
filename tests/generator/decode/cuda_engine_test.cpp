// The engine over a model on a GPU: caches, prefixes, beams and drafts live on pages in its memory.
// Built twice, as kernels_cuda_test.cpp is.
#include <gtest/gtest.h>

#include "generator/decode/beam_search.h"
#include "generator/decode/engine.h"
#include "generator/models/device.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

class EngineOnCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_support().num_devices == 0) GTEST_SKIP() << "no CUDA device on this machine";
    host_ = load(Device::kCpu);
    cuda_ = load(Device::kCuda);
    ASSERT_EQ(cuda_->device, Device::kCuda);
  }

  std::shared_ptr<const LoadedGenerator> load(Device device) const {
    GeneratorOptions options;
    options.precision = kernels::Precision::kFast;
    options.device = device;
    return std::make_shared<const LoadedGenerator>(
        load_generator(write_tiny_llama_gguf(folder_.path(), 3).string(), options));
  }

  GenerateRequest request_of(int words, int64_t max_tokens) const {
    std::string prompt;
    for (int i = 0; i < words; ++i) prompt += "word" + std::to_string(i * i % 97) + " ";
    GenerateRequest request;
    request.prompt = host_->tokenizer->encode(prompt, Tokenizer::SpecialTokens::kNone);
    request.max_tokens = max_tokens;
    return request;
  }

  test::TemporaryFolder folder_;
  std::shared_ptr<const LoadedGenerator> host_;
  std::shared_ptr<const LoadedGenerator> cuda_;
};

// Sums in other orders: a text may part from the CPU's after a near tie, most do not.
TEST_F(EngineOnCuda, TextsAreTheCpus) {
  Engine host(host_, EngineOptions());
  Engine cuda(cuda_, EngineOptions());
  EXPECT_EQ(cuda.options().prefill_chunk_tokens, 2048);
  std::vector<Engine::Submitted> together;
  std::vector<std::vector<int32_t>> expected;
  for (const int words : {1, 3, 8, 15, 20}) {
    expected.push_back(host.submit(request_of(words, 16), nullptr).result.get().tokens);
  }
  for (const int words : {1, 3, 8, 15, 20}) {
    together.push_back(cuda.submit(request_of(words, 16), nullptr));
  }
  int same = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const GenerateResult result = together[i].result.get();
    EXPECT_EQ(result.error, "");
    same += result.tokens == expected[i] ? 1 : 0;
  }
  EXPECT_GE(same, 4);
}

TEST_F(EngineOnCuda, PrefixesAreFoundKeptAndBroughtBack) {
  const std::filesystem::path file = folder_.path() / "prefixes";
  const GenerateRequest request = request_of(20, 8);
  std::vector<int32_t> expected;
  {
    Engine engine(cuda_, EngineOptions());
    expected = engine.submit(request, nullptr).result.get().tokens;
    const GenerateResult again = engine.submit(request, nullptr).result.get();
    EXPECT_GE(again.cached_tokens, 64);
    EXPECT_EQ(again.tokens, expected);
    EXPECT_GT(engine.save_prefixes(file), 0);
  }
  Engine engine(cuda_, EngineOptions());
  const auto loaded = engine.load_prefixes(file);
  EXPECT_EQ(loaded.warning, "");
  EXPECT_GT(loaded.bytes, 0);
  const GenerateResult result = engine.submit(request, nullptr).result.get();
  EXPECT_GE(result.cached_tokens, 64);
  EXPECT_EQ(result.tokens, expected);
  // The CPU computes other bits: it leaves them alone.
  Engine host(host_, EngineOptions());
  EXPECT_NE(host.load_prefixes(file).warning, "");
}

TEST_F(EngineOnCuda, BeamsShareTheirPages) {
  Engine engine(cuda_, EngineOptions());
  const GenerateRequest request = request_of(15, 12);
  BeamSearchOptions one;
  one.num_beams = 1;
  EXPECT_EQ(beam_search(engine, request, one, nullptr).tokens,
            engine.submit(request, nullptr).result.get().tokens);
  BeamSearchOptions three;
  three.num_beams = 3;
  const GenerateResult first = beam_search(engine, request, three, nullptr);
  EXPECT_FALSE(first.tokens.empty());
  EXPECT_EQ(beam_search(engine, request, three, nullptr).tokens, first.tokens);
}

}  // namespace
}  // namespace quarry
