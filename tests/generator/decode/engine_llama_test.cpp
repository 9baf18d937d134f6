// The engine over a real model, small and random: what it says does not depend on how it got there.
#include <gtest/gtest.h>

#include "generator/decode/engine.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

class EngineOverLlama : public testing::Test {
 protected:
  EngineOverLlama()
      : generator_(std::make_shared<const LoadedGenerator>(load_generator(
            write_tiny_llama_gguf(folder_.path(), 3).string(), kernels::Precision::kFast))) {}

  GenerateRequest request_of(const std::string& prompt) const {
    GenerateRequest request;
    request.prompt = generator_->tokenizer->encode(prompt, Tokenizer::SpecialTokens::kNone);
    request.max_tokens = 40;
    return request;
  }

  test::TemporaryFolder folder_;
  std::shared_ptr<const LoadedGenerator> generator_;
};

std::string long_text(int words) {
  std::string text;
  for (int i = 0; i < words; ++i) text += "word" + std::to_string(i * i % 97) + " ";
  return text;
}

TEST_F(EngineOverLlama, TextsAreTheSameWithAPrefixCache) {
  EngineOptions without;
  without.prefix_cache_bytes = 0;
  Engine plain(generator_, without);
  EngineOptions with;
  with.prefill_chunk_tokens = 50;
  Engine cached(generator_, with);
  for (const double temperature : {0.0, 1.0}) {
    for (const int words : {30, 31, 45, 20, 45}) {
      GenerateRequest request = request_of(long_text(words) + "?");
      request.sampling.temperature = temperature;
      request.sampling.seed = 11;
      const GenerateResult expected = plain.submit(request, nullptr).result.get();
      const GenerateResult result = cached.submit(request, nullptr).result.get();
      EXPECT_EQ(result.tokens, expected.tokens) << words;
      EXPECT_EQ(expected.cached_tokens, 0);
    }
  }
  EXPECT_GT(cached.stats().cached_tokens_total, cached.stats().prompt_tokens_total / 2);
}

TEST_F(EngineOverLlama, LogprobsAreThoseOfEachTokenWithAndWithoutDrafts) {
  EngineOptions without;
  without.prompt_lookup = false;
  Engine plain(generator_, without);
  Engine fast(generator_, EngineOptions());
  GenerateRequest request = request_of(long_text(20));
  request.max_tokens = 60;
  request.top_logprobs = 3;
  const GenerateResult expected = plain.submit(request, nullptr).result.get();
  std::vector<TokenLogprobs> heard;
  request.on_logprobs = [&](const TokenLogprobs& logprobs) { heard.push_back(logprobs); };
  const GenerateResult result = fast.submit(request, nullptr).result.get();
  ASSERT_EQ(result.logprobs.size(), result.tokens.size());
  ASSERT_EQ(heard.size(), result.tokens.size());
  ASSERT_EQ(result.tokens, expected.tokens);
  for (size_t i = 0; i < result.tokens.size(); ++i) {
    const TokenLogprobs& token = result.logprobs[i];
    EXPECT_EQ(token.token, result.tokens[i]);
    ASSERT_EQ(token.top.size(), 3u);
    EXPECT_EQ(token.top[0].token, token.token);  // greedy
    EXPECT_EQ(token.top[0].logprob, token.logprob);
    EXPECT_LE(token.top[1].logprob, token.top[0].logprob);
    EXPECT_EQ(token.logprob, expected.logprobs[i].logprob);
    EXPECT_EQ(heard[i].logprob, token.logprob);
  }
  request.top_logprobs = -1;
  EXPECT_TRUE(fast.submit(request, nullptr).result.get().logprobs.empty());
}

TEST_F(EngineOverLlama, TextsAreTheSameWithPromptLookup) {
  EngineOptions without;
  without.prompt_lookup = false;
  Engine plain(generator_, without);
  Engine fast(generator_, EngineOptions());
  std::vector<std::vector<int32_t>> expected;
  std::vector<GenerateRequest> requests;
  for (const double temperature : {0.0, 0.7}) {
    for (const int words : {1, 5, 12, 20, 33}) {
      GenerateRequest request = request_of(long_text(words));
      request.max_tokens = 120;
      request.sampling.temperature = temperature;
      request.sampling.seed = 5;
      request.sampling.repetition_penalty = words == 12 ? 1.2 : 1.0;
      expected.push_back(plain.submit(request, nullptr).result.get().tokens);
      EXPECT_EQ(fast.submit(request, nullptr).result.get().tokens, expected.back()) << words;
      requests.push_back(request);
    }
  }
  // Only now: a model has one engine at a time.
  std::vector<Engine::Submitted> together;
  for (const GenerateRequest& request : requests) together.push_back(fast.submit(request, nullptr));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(together[i].result.get().tokens, expected[i]) << i;
  }
  EXPECT_EQ(plain.stats().draft_tokens_total, 0);
  EXPECT_GT(fast.stats().accepted_draft_tokens_total, 0);
}

}  // namespace
}  // namespace quarry
