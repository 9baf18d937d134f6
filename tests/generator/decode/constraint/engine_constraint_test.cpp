// Constrained requests over a real model, small and random, which by itself writes nonsense.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <regex>

#include "data/core/error.h"
#include "generator/decode/beam_search.h"
#include "generator/decode/constraint/constraints.h"
#include "generator/decode/engine.h"
#include "tests/generator/decode/constraint/schema_check.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

const char* const kPerson = R"({"type": "object", "properties": {
  "name": {"type": "string", "maxLength": 8},
  "age": {"type": "integer", "minimum": 0, "maximum": 150},
  "colours": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2, "maxItems": 5},
  "born": {"type": "string", "format": "date"}},
  "required": ["name", "age", "colours"], "additionalProperties": false})";

class ConstrainedEngine : public testing::Test {
 protected:
  ConstrainedEngine()
      : generator_(std::make_shared<const LoadedGenerator>(load_generator(
            write_tiny_llama_gguf(folder_.path(), 3).string(), kernels::Precision::kFast))) {
    EngineOptions without;
    without.prompt_lookup = false;
    plain_ = std::make_unique<Engine>(generator_, without);
    fast_ = std::make_unique<Engine>(generator_, EngineOptions());
  }

  GenerateRequest request_of(const std::string& prompt) const {
    GenerateRequest request;
    request.prompt = generator_->tokenizer->encode(prompt, Tokenizer::SpecialTokens::kNone);
    request.max_tokens = 200;
    return request;
  }

  // Constrained requests, greedy and sampled, after prompts that hold such texts.
  std::vector<GenerateRequest> person_requests(Engine& engine) const {
    std::vector<GenerateRequest> requests;
    for (const double temperature : {0.0, 1.0, 3.0}) {
      for (const char* prompt :
           {"Who?", R"({"name":"Ada","age":36,"colours":["red","green"]} and another: )",
            R"({"name": "Bob", "age": 9, "colours": ["red", "red", "red", "red"]} {"name": )"}) {
        for (const double penalty : {1.0, 1.2}) {
          GenerateRequest request = request_of(prompt);
          request.sampling.temperature = temperature;
          request.sampling.seed = 40 + requests.size();
          request.sampling.repetition_penalty = penalty;
          request.constraint = engine.constraints().json_schema(kPerson);
          requests.push_back(request);
        }
      }
    }
    return requests;
  }

  test::TemporaryFolder folder_;
  std::shared_ptr<const LoadedGenerator> generator_;
  std::unique_ptr<Engine> plain_;
  std::unique_ptr<Engine> fast_;
};

TEST_F(ConstrainedEngine, EveryTextSatisfiesItsSchemaWithAndWithoutDrafts) {
  const std::vector<GenerateRequest> requests = person_requests(*plain_);
  const std::vector<GenerateRequest> again = person_requests(*fast_);
  for (size_t i = 0; i < requests.size(); ++i) {
    const GenerateResult expected = plain_->submit(requests[i], nullptr).result.get();
    ASSERT_EQ(expected.finish_reason, FinishReason::kStop) << expected.error << expected.text;
    EXPECT_EQ(test::schema_error(kPerson, expected.text), "") << expected.text;
    const GenerateResult result = fast_->submit(again[i], nullptr).result.get();
    EXPECT_EQ(result.tokens, expected.tokens) << i;
    EXPECT_EQ(result.text, expected.text) << i;
  }
  EXPECT_GT(fast_->stats().accepted_draft_tokens_total, 0);
}

TEST_F(ConstrainedEngine, UnconstrainedNeighboursKeepTheirTexts) {
  std::vector<GenerateRequest> requests = person_requests(*fast_);
  for (size_t i = 0; i < 6; ++i) {
    GenerateRequest request = request_of("word " + std::string(i, 'x') + " word word?");
    request.sampling.temperature = i % 2 == 0 ? 0.0 : 0.8;
    request.max_tokens = 60;
    requests.insert(requests.begin() + static_cast<std::ptrdiff_t>(2 * i), request);
  }
  std::vector<std::vector<int32_t>> alone;
  for (const GenerateRequest& request : requests) {
    alone.push_back(fast_->submit(request, nullptr).result.get().tokens);
  }
  std::vector<Engine::Submitted> together;
  for (const GenerateRequest& request : requests) {
    together.push_back(fast_->submit(request, nullptr));
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(together[i].result.get().tokens, alone[i]) << i;
  }
}

TEST_F(ConstrainedEngine, AnyJsonObjectParsesOrIsCutShort) {
  size_t num_whole = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    GenerateRequest request = request_of("JSON:");
    request.sampling.temperature = 2.0;
    request.sampling.seed = seed;
    request.constraint = fast_->constraints().json_object();
    const GenerateResult result = fast_->submit(request, nullptr).result.get();
    if (result.finish_reason == FinishReason::kLength) {
      EXPECT_EQ(result.completion_tokens, 200);
      continue;
    }
    ++num_whole;
    ASSERT_EQ(result.finish_reason, FinishReason::kStop) << result.error;
    EXPECT_EQ(test::schema_error(R"({"type": "object"})", result.text), "") << result.text;
  }
  EXPECT_GT(num_whole, 0u);
}

TEST_F(ConstrainedEngine, TextsMatchTheirRegularExpression) {
  for (const char* pattern :
       {"(yes|no)", "[a-z]{3,6}( [a-z]{3,6}){2}\\.", "\\d{3}-\\d{4}", "(ab)+!"}) {
    for (const double temperature : {0.0, 1.5}) {
      GenerateRequest request = request_of("Say something.");
      request.sampling.temperature = temperature;
      request.constraint = fast_->constraints().regex(pattern);
      const GenerateResult result = fast_->submit(request, nullptr).result.get();
      if (result.finish_reason == FinishReason::kLength) continue;
      EXPECT_TRUE(std::regex_match(result.text, std::regex(pattern)))
          << pattern << ": " << result.text;
    }
  }
}

TEST_F(ConstrainedEngine, WithoutRoomTheTextIsCutAndSaysSo) {
  GenerateRequest request = request_of("Who?");
  request.constraint = fast_->constraints().json_schema(kPerson);
  const std::string whole = fast_->submit(request, nullptr).result.get().text;
  request.max_tokens = 4;
  const GenerateResult result = fast_->submit(request, nullptr).result.get();
  EXPECT_EQ(result.finish_reason, FinishReason::kLength);
  EXPECT_EQ(result.text, whole.substr(0, result.text.size()));
}

TEST_F(ConstrainedEngine, ATextThatIsCompleteEndsWithItsLastToken) {
  GenerateRequest request = request_of("Who?");
  request.constraint = fast_->constraints().regex("a{5}");
  request.max_tokens = 5;
  const GenerateResult result = fast_->submit(request, nullptr).result.get();
  EXPECT_EQ(result.text, "aaaaa");
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
}

TEST_F(ConstrainedEngine, LogprobsAreAmongTheTokensThatMightCome) {
  GenerateRequest request = request_of("Who?");
  request.constraint = fast_->constraints().regex("[xyz]{6}");
  request.top_logprobs = 20;
  const GenerateResult result = fast_->submit(request, nullptr).result.get();
  ASSERT_EQ(result.logprobs.size(), result.tokens.size());
  for (const TokenLogprobs& token : result.logprobs) {
    EXPECT_EQ(token.top.size(), 3u);
    double sum = 0.0;
    for (const TokenLogprobs::Alternative& other : token.top) sum += std::exp(other.logprob);
    EXPECT_NEAR(sum, 1.0, 1e-5);
    EXPECT_EQ(token.top[0].token, token.token);
  }
}

TEST_F(ConstrainedEngine, BeamsKeepToTheConstraint) {
  BeamSearchOptions beams;
  beams.num_beams = 4;
  GenerateRequest request = request_of("Who?");
  request.constraint = plain_->constraints().json_schema(kPerson);
  const GenerateResult result = beam_search(*plain_, request, beams, nullptr);
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
  EXPECT_EQ(test::schema_error(kPerson, result.text), "") << result.text;
}

TEST_F(ConstrainedEngine, AStopStringStillEndsTheText) {
  GenerateRequest request = request_of("Who?");
  request.constraint = fast_->constraints().json_schema(kPerson);
  request.stop = {"\"age\""};
  const GenerateResult result = fast_->submit(request, nullptr).result.get();
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
  EXPECT_THAT(result.text, HasSubstr("{\"name\":"));
  EXPECT_EQ(result.text.find("age"), std::string::npos);
}

TEST_F(ConstrainedEngine, AConstraintThatTurnsOutTooComplexEndsItsRequestAlone) {
  GenerateRequest request = request_of("Who?");
  request.constraint = fast_->constraints().regex("x(\\w?){80000}");
  Engine::Submitted neighbour = fast_->submit(request_of("word word"), nullptr);
  const GenerateResult result = fast_->submit(request, nullptr).result.get();
  EXPECT_EQ(neighbour.result.get().finish_reason, FinishReason::kLength);
  EXPECT_EQ(result.finish_reason, FinishReason::kError);
  EXPECT_THAT(result.error, HasSubstr("too complex"));
}

TEST_F(ConstrainedEngine, AConstraintForAnotherVocabularyIsRefused) {
  const auto tokens = std::make_shared<const TokenTrie>(*generator_->tokenizer, 100,
                                                        generator_->stop_tokens, false);
  Grammar grammar;
  grammar.rules.push_back(repeat_expr(range_expr('!', '~'), 1, 9));
  GenerateRequest request = request_of("Who?");
  request.constraint = std::make_shared<Constraint>(grammar, tokens);
  EXPECT_THROW(fast_->submit(request, nullptr), Error);
}

}  // namespace
}  // namespace quarry
