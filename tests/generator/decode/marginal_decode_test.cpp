#include "generator/decode/marginal_decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "data/core/error.h"
#include "tests/generator/decode/fake_model.h"

namespace quarry {
namespace {

const RunOnModel kHere = [](const std::function<void()>& job) { job(); };

// p(. | history) of the model, alone and from the beginning.
std::vector<double> distribution(const CausalLm& model, const std::vector<int32_t>& history) {
  const auto cache = model.make_cache();
  SequenceChunk chunk;
  chunk.tokens = history.data();
  chunk.num_tokens = static_cast<int64_t>(history.size());
  chunk.cache = cache.get();
  const std::vector<float> logits = model.forward({chunk});
  double total = 0.0;
  for (const float logit : logits) total += std::exp(double{logit});
  std::vector<double> p;
  for (const float logit : logits) p.push_back(std::exp(double{logit}) / total);
  return p;
}

std::vector<int32_t> tokens_of(const std::string& text) { return {text.begin(), text.end()}; }

// The first prompt is answered "ab", the second "ac", the third "ac" too; each then stops.
fake::NextToken three_answers() {
  return [](const std::vector<int32_t>& history, const LoraAdapter*) -> int32_t {
    const bool says_b = history.front() == '1';
    switch (history.back()) {
      case ':':
        return 'a';
      case 'a':
        return says_b ? 'b' : 'c';
      default:
        return fake::kEnd;
    }
  };
}

MarginalRequest three_prompts(const std::vector<double>& prior) {
  MarginalRequest request;
  for (const char* prompt : {"1 is it:", "2 is that:", "3 is this one:"}) {
    request.prompts.push_back(tokens_of(prompt));
  }
  for (const double p : prior) request.log_prior.push_back(std::log(p));
  request.stop_tokens = {fake::kEnd, fake::kStart};
  return request;
}

// log of the joint probability of each passage with the answer and a stop.
std::vector<double> joint(const CausalLm& model, const MarginalRequest& request,
                          const std::string& answer) {
  std::vector<double> result;
  for (size_t z = 0; z < request.prompts.size(); ++z) {
    std::vector<int32_t> history = request.prompts[z];
    double total = request.log_prior[z];
    for (const int32_t token : tokens_of(answer)) {
      total += std::log(distribution(model, history)[static_cast<size_t>(token)]);
      history.push_back(token);
    }
    const std::vector<double> end = distribution(model, history);
    result.push_back(total + std::log(end[fake::kEnd] + end[fake::kStart]));
  }
  return result;
}

double sum_of_exp(const std::vector<double>& logs) {
  double total = 0.0;
  for (const double value : logs) total += std::exp(value);
  return total;
}

TEST(MarginalDecode, SequenceTakesTheAnswerOfTheLargestMarginal) {
  const fake::Model model(three_answers());
  // The likeliest passage says "ab", but the other two outweigh it.
  const MarginalRequest request = three_prompts({0.4, 0.3, 0.3});
  const MarginalResult result =
      decode_marginal(model, Marginal::kSequence, request, kHere, nullptr);
  EXPECT_EQ(result.tokens, tokens_of("ac"));
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
  ASSERT_EQ(result.passage_tokens.size(), 3u);
  EXPECT_EQ(result.passage_tokens[0], tokens_of("ab"));
  EXPECT_EQ(result.passage_tokens[1], tokens_of("ac"));
  const std::vector<double> wanted = joint(model, request, "ac");
  EXPECT_NEAR(result.log_likelihood, std::log(sum_of_exp(wanted)), 1e-5);
  for (size_t z = 0; z < 3; ++z) {
    EXPECT_NEAR(result.posterior[z], std::exp(wanted[z]) / sum_of_exp(wanted), 1e-5);
  }
  EXPECT_GT(sum_of_exp(wanted), sum_of_exp(joint(model, request, "ab")));
}

TEST(MarginalDecode, SequenceFollowsAStrongPrior) {
  const fake::Model model(three_answers());
  const MarginalResult result =
      decode_marginal(model, Marginal::kSequence, three_prompts({0.9, 0.05, 0.05}), kHere, nullptr);
  EXPECT_EQ(result.tokens, tokens_of("ab"));
  EXPECT_GT(result.posterior[0], 0.9);
}

TEST(MarginalDecode, TokenMixesTheDistributionsAtEachStep) {
  const fake::Model model(three_answers());
  const MarginalRequest request = three_prompts({0.4, 0.3, 0.3});
  const MarginalResult result = decode_marginal(model, Marginal::kToken, request, kHere, nullptr);
  EXPECT_EQ(result.tokens, tokens_of("ac"));
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
  // By hand: the mixture at each step, and each passage's part in what was chosen.
  double wanted = 0.0;
  std::vector<double> posterior(3, 0.0);
  for (size_t step = 0; step < 3; ++step) {
    std::vector<double> parts;
    double total = 0.0;
    for (size_t z = 0; z < 3; ++z) {
      std::vector<int32_t> history = request.prompts[z];
      history.insert(history.end(), result.tokens.begin(),
                     result.tokens.begin() + static_cast<long>(step));
      const std::vector<double> p = distribution(model, history);
      const double chosen =
          step < 2 ? p[static_cast<size_t>(result.tokens[step])] : p[fake::kEnd] + p[fake::kStart];
      parts.push_back(std::exp(request.log_prior[z]) * chosen);
      total += parts.back();
    }
    wanted += std::log(total);
    for (size_t z = 0; z < 3; ++z) posterior[z] += parts[z] / total / 3.0;
  }
  EXPECT_NEAR(result.log_likelihood, wanted, 1e-5);
  for (size_t z = 0; z < 3; ++z) EXPECT_NEAR(result.posterior[z], posterior[z], 1e-5);
}

TEST(MarginalDecode, WithOnePassageBothAreGreedyDecoding) {
  const fake::Model model(fake::hashed_letters);
  MarginalRequest request;
  request.prompts = {tokens_of("what now")};
  request.log_prior = {0.0};
  request.stop_tokens = {fake::kEnd};
  request.max_tokens = 20;
  const std::string wanted =
      fake::expected_text(fake::hashed_letters, request.prompts.front(), request.max_tokens);
  for (const Marginal marginal : {Marginal::kSequence, Marginal::kToken}) {
    const MarginalResult result = decode_marginal(model, marginal, request, kHere, nullptr);
    EXPECT_EQ(fake::ByteTokenizer().decode(result.tokens), wanted);
    EXPECT_NEAR(result.posterior.at(0), 1.0, 1e-9);
  }
}

TEST(MarginalDecode, PromptsInPiecesGiveTheSame) {
  const fake::Model model(three_answers());
  MarginalRequest request = three_prompts({0.5, 0.3, 0.2});
  for (const Marginal marginal : {Marginal::kSequence, Marginal::kToken}) {
    request.prefill_chunk_tokens = 256;
    const MarginalResult whole = decode_marginal(model, marginal, request, kHere, nullptr);
    request.prefill_chunk_tokens = 3;
    const MarginalResult pieces = decode_marginal(model, marginal, request, kHere, nullptr);
    EXPECT_EQ(pieces.tokens, whole.tokens);
    EXPECT_EQ(pieces.log_likelihood, whole.log_likelihood);
  }
}

TEST(MarginalDecode, LengthBiasAndCancellation) {
  const fake::Model model(three_answers());
  MarginalRequest request = three_prompts({0.4, 0.3, 0.3});
  request.max_tokens = 1;
  for (const Marginal marginal : {Marginal::kSequence, Marginal::kToken}) {
    MarginalResult result = decode_marginal(model, marginal, request, kHere, nullptr);
    EXPECT_EQ(result.tokens, tokens_of("a"));
    EXPECT_EQ(result.finish_reason, FinishReason::kLength);
    MarginalRequest biased = request;
    biased.first_token_bias = {'z', 100.0f};
    EXPECT_EQ(decode_marginal(model, marginal, biased, kHere, nullptr).tokens, tokens_of("z"));
    result = decode_marginal(model, marginal, request, kHere, [] { return false; });
    EXPECT_EQ(result.finish_reason, FinishReason::kCancelled);
  }
}

// The first prompt is answered "nab", or "not" as the others, which says that they hold no answer.
fake::NextToken one_answer(bool first_refuses) {
  return [=](const std::vector<int32_t>& history, const LoraAdapter*) -> int32_t {
    const bool refuses = first_refuses || history.front() != '1';
    switch (history.back()) {
      case ':':
        return 'n';
      case 'n':
        return refuses ? 'o' : 'a';
      case 'o':
        return 't';
      case 'a':
        return 'b';
      default:
        return fake::kEnd;
    }
  };
}

TEST(MarginalDecode, PassagesThatHoldNoAnswerDoNotOutweighOneThatDoes) {
  fake::Model model(one_answer(false));
  model.peak = 20.0f;
  MarginalRequest request = three_prompts({0.1, 0.45, 0.45});
  for (const Marginal marginal : {Marginal::kSequence, Marginal::kToken}) {
    request.refusal.clear();
    EXPECT_EQ(decode_marginal(model, marginal, request, kHere, nullptr).tokens, tokens_of("not"));
    request.refusal = tokens_of("not");
    const MarginalResult result = decode_marginal(model, marginal, request, kHere, nullptr);
    EXPECT_EQ(result.tokens, tokens_of("nab"));
    EXPECT_GT(result.posterior[0], 0.9);
    request.max_tokens = 2;
    EXPECT_EQ(decode_marginal(model, marginal, request, kHere, nullptr).tokens, tokens_of("na"));
    request.max_tokens = 64;
    if (marginal == Marginal::kToken) {
      EXPECT_NEAR(result.log_likelihood, 0.0, 1e-3);  // nothing else is left
      continue;
    }
    EXPECT_EQ(result.passage_tokens[1], tokens_of("not"));
    EXPECT_NEAR(result.log_likelihood, std::log(sum_of_exp(joint(model, request, "nab"))), 1e-5);
  }
}

// Passages that would rather not refuse, each for another answer: the refusal that they have in
// common is not what is left.
TEST(MarginalDecode, WhatIsLeftOfRefusalsDoesNotAddUp) {
  fake::Model model([](const std::vector<int32_t>& history, const LoraAdapter*) -> int32_t {
    return history.back() == ':' ? history.front() : fake::kEnd;
  });
  model.peak = 20.0f;
  model.rival = 'n';
  MarginalRequest request = three_prompts({0.4, 0.3, 0.3});
  EXPECT_EQ(decode_marginal(model, Marginal::kToken, request, kHere, nullptr).tokens,
            tokens_of("n"));
  request.refusal = tokens_of("n");
  EXPECT_EQ(decode_marginal(model, Marginal::kToken, request, kHere, nullptr).tokens,
            tokens_of("1"));
}

TEST(MarginalDecode, NoPassageHoldsTheAnswer) {
  const fake::Model model(one_answer(true));
  MarginalRequest request = three_prompts({0.1, 0.45, 0.45});
  request.refusal = tokens_of("not");
  for (const Marginal marginal : {Marginal::kSequence, Marginal::kToken}) {
    request.max_tokens = 64;
    EXPECT_EQ(decode_marginal(model, marginal, request, kHere, nullptr).tokens, tokens_of("not"));
    request.max_tokens = 1;
    const MarginalResult cut = decode_marginal(model, marginal, request, kHere, nullptr);
    EXPECT_EQ(cut.tokens, tokens_of("n"));
    EXPECT_EQ(cut.finish_reason, FinishReason::kLength);
    // And where the context is full then.
    const fake::Model small(one_answer(true), static_cast<int64_t>(request.prompts[2].size()) + 1);
    EXPECT_EQ(decode_marginal(small, marginal, request, kHere, nullptr).tokens, tokens_of("n"));
  }
}

// The third prompt leaves room for one token, and "ab" takes two.
TEST(MarginalDecode, APassageWithoutRoomForAnotherOnesAnswerIsNoError) {
  const MarginalRequest request = three_prompts({0.9, 0.05, 0.05});
  const fake::Model model(three_answers(), static_cast<int64_t>(request.prompts[2].size()) + 1);
  const MarginalResult result =
      decode_marginal(model, Marginal::kSequence, request, kHere, nullptr);
  EXPECT_EQ(result.passage_tokens[0], tokens_of("ab"));
  EXPECT_EQ(result.passage_tokens[2], tokens_of("a"));
  EXPECT_EQ(result.tokens, tokens_of("a"));  // more likely than "ab" and its end
}

TEST(MarginalDecode, WhatIsMissingIsNamed) {
  const fake::Model model(three_answers());
  MarginalRequest request = three_prompts({0.5, 0.5});
  try {
    decode_marginal(model, Marginal::kToken, request, kHere, nullptr);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("over 3 prompts with 2 priors"));
  }
}

}  // namespace
}  // namespace quarry
