#include "finetune/loss/marginal_likelihood.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "data/core/error.h"
#include "data/core/json.h"

namespace quarry {
namespace {

using Loss = MarginalLoss (*)(const MarginalInputs&);

MarginalInputs some_inputs(size_t k, size_t tokens, uint32_t seed, double temperature) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> score(-1.0, 1.0);
  std::uniform_real_distribution<double> loss(0.01, 4.0);
  MarginalInputs inputs;
  inputs.temperature = temperature;
  inputs.teacher_temperature = 0.4;
  for (size_t z = 0; z < k; ++z) {
    inputs.scores.push_back(score(random));
    inputs.token_losses.emplace_back();
    for (size_t i = 0; i < tokens; ++i) inputs.token_losses.back().push_back(loss(random));
  }
  return inputs;
}

// The formulas as they are printed: probabilities multiplied and added, no logarithm before the
// end.
std::vector<long double> plain_prior(const MarginalInputs& inputs) {
  std::vector<long double> prior;
  long double total = 0.0L;
  for (const double score : inputs.scores) {
    prior.push_back(std::exp(static_cast<long double>(score) / inputs.temperature));
    total += prior.back();
  }
  for (long double& p : prior) p /= total;
  return prior;
}

long double plain_rag_sequence(const MarginalInputs& inputs) {
  const auto prior = plain_prior(inputs);
  long double marginal = 0.0L;
  for (size_t z = 0; z < prior.size(); ++z) {
    long double p = prior[z];
    for (const double loss : inputs.token_losses[z]) p *= std::exp(-static_cast<long double>(loss));
    marginal += p;
  }
  return -std::log(marginal);
}

long double plain_rag_token(const MarginalInputs& inputs) {
  const auto prior = plain_prior(inputs);
  long double product = 1.0L;
  for (size_t i = 0; i < inputs.token_losses.front().size(); ++i) {
    long double marginal = 0.0L;
    for (size_t z = 0; z < prior.size(); ++z) {
      marginal += prior[z] * std::exp(-static_cast<long double>(inputs.token_losses[z][i]));
    }
    product *= marginal;
  }
  return -std::log(product);
}

long double plain_replug(const MarginalInputs& inputs) {
  const auto prior = plain_prior(inputs);
  std::vector<long double> wanted;
  long double total = 0.0L;
  for (const std::vector<double>& losses : inputs.token_losses) {
    long double p = 1.0L;
    for (const double loss : losses) p *= std::exp(-static_cast<long double>(loss));
    wanted.push_back(p);
    total += p;
  }
  long double divergence = 0.0L;
  for (size_t z = 0; z < prior.size(); ++z) {
    divergence += prior[z] * std::log(prior[z] * total / wanted[z]);
  }
  return divergence;
}

long double plain_pdist(const MarginalInputs& inputs) {
  const auto prior = plain_prior(inputs);
  std::vector<long double> teacher;
  long double total = 0.0L;
  for (const std::vector<double>& losses : inputs.token_losses) {
    const double mean = std::accumulate(losses.begin(), losses.end(), 0.0) / losses.size();
    teacher.push_back(std::exp(-static_cast<long double>(mean) / inputs.teacher_temperature));
    total += teacher.back();
  }
  long double divergence = 0.0L;
  for (size_t z = 0; z < prior.size(); ++z) {
    divergence += teacher[z] / total * std::log(teacher[z] / total / prior[z]);
  }
  return divergence;
}

struct Case {
  const char* name;
  Loss loss;
  long double (*plain)(const MarginalInputs&);
};

class MarginalLikelihood : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Losses, MarginalLikelihood,
                         testing::Values(Case{"RagSequence", rag_sequence_loss, plain_rag_sequence},
                                         Case{"RagToken", rag_token_loss, plain_rag_token},
                                         Case{"ReplugLsr", replug_lsr_loss, plain_replug},
                                         Case{"Pdist", pdist_loss, plain_pdist}),
                         [](const auto& info) { return info.param.name; });

TEST_P(MarginalLikelihood, EqualsThePlainFormula) {
  for (const size_t k : {size_t{1}, size_t{2}, size_t{5}, size_t{50}}) {
    for (const size_t tokens : {size_t{1}, size_t{3}, size_t{20}}) {
      const MarginalInputs inputs =
          some_inputs(k, tokens, static_cast<uint32_t>(7 * k + tokens), 0.3);
      const auto wanted = static_cast<double>(GetParam().plain(inputs));
      EXPECT_NEAR(GetParam().loss(inputs).loss, wanted, 1e-6 * (1.0 + std::fabs(wanted)));
    }
  }
}

TEST_P(MarginalLikelihood, GradientsEqualFiniteDifferences) {
  const double step = 1e-5;
  MarginalInputs inputs = some_inputs(4, 6, 11, 0.2);
  const MarginalLoss result = GetParam().loss(inputs);
  const auto difference = [&](double& value) {
    const double before = value;
    value = before + step;
    const double up = GetParam().loss(inputs).loss;
    value = before - step;
    const double down = GetParam().loss(inputs).loss;
    value = before;
    return (up - down) / (2.0 * step);
  };
  // What the generator is not to learn from is no derivative.
  const bool trains_generator =
      GetParam().loss == rag_sequence_loss || GetParam().loss == rag_token_loss;
  for (size_t z = 0; z < inputs.scores.size(); ++z) {
    const double wanted = difference(inputs.scores[z]);
    EXPECT_NEAR(result.score_gradients[z], wanted, 1e-3 * std::fabs(wanted) + 1e-9);
    for (size_t i = 0; trains_generator && i < inputs.token_losses[z].size(); ++i) {
      const double weight = difference(inputs.token_losses[z][i]);
      EXPECT_NEAR(result.token_weights[z][i], weight, 1e-3 * std::fabs(weight) + 1e-9);
    }
  }
}

TEST_P(MarginalLikelihood, ScoreGradientsSumToZeroAndPosteriorsToOne) {
  const MarginalInputs inputs = some_inputs(5, 4, 3, 0.5);
  const MarginalLoss result = GetParam().loss(inputs);
  const auto sum = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0);
  };
  EXPECT_NEAR(sum(result.score_gradients), 0.0, 1e-12);
  EXPECT_NEAR(sum(result.prior), 1.0, 1e-12);
  EXPECT_NEAR(sum(result.posterior), 1.0, 1e-12);
  EXPECT_GT(std::fabs(result.score_gradients[0]), 1e-6);
}

TEST_P(MarginalLikelihood, LikelihoodsBelowWhatADoubleHoldsAreNoTrouble) {
  MarginalInputs inputs = some_inputs(3, 2, 9, 1.0);
  for (auto& losses : inputs.token_losses) {
    for (double& loss : losses) loss += 2000.0;  // exp(-2000) is 0
  }
  const MarginalLoss result = GetParam().loss(inputs);
  EXPECT_TRUE(std::isfinite(result.loss));
  EXPECT_NEAR(std::accumulate(result.posterior.begin(), result.posterior.end(), 0.0), 1.0, 1e-9);
}

TEST_P(MarginalLikelihood, InputsThatDoNotFitAreNamed) {
  const auto error_of = [&](const MarginalInputs& inputs) -> std::string {
    try {
      GetParam().loss(inputs);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  MarginalInputs inputs = some_inputs(2, 3, 1, 1.0);
  inputs.scores.pop_back();
  EXPECT_THAT(error_of(inputs), testing::HasSubstr("over 1 scores and the token losses of 2"));
  inputs = some_inputs(2, 3, 1, 1.0);
  inputs.token_losses[1].pop_back();
  EXPECT_THAT(error_of(inputs), testing::HasSubstr("3 tokens with one passage and 2 with another"));
  inputs = some_inputs(2, 3, 1, 0.0);
  EXPECT_THAT(error_of(inputs), testing::HasSubstr("temperature of a retriever is 0"));
  inputs = some_inputs(2, 3, 1, 1.0);
  inputs.teacher_temperature = 0.0;
  EXPECT_THAT(error_of(inputs), testing::HasSubstr("temperature of a teacher is 0"));
  inputs = some_inputs(2, 0, 1, 1.0);
  EXPECT_THAT(error_of(inputs), testing::HasSubstr("without tokens"));
  EXPECT_THAT(error_of({}), testing::HasSubstr("over 0 scores"));
}

void expect_near(const std::vector<double>& found, const Json& wanted) {
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], wanted[i].get<double>(), 1e-9);
}

// tests/golden/rag_losses: losses and gradients of transformers' RAG models.
TEST(RagLosses, EqualTransformers) {
  const Json cases =
      read_json_file(std::string(QUARRY_SOURCE_DIR) + "/tests/golden/rag_losses/losses.json");
  ASSERT_EQ(cases.size(), 3u);
  for (const Json& item : cases) {
    MarginalInputs inputs;
    inputs.scores = item.at("scores").get<std::vector<double>>();
    inputs.token_losses = item.at("token_losses").get<std::vector<std::vector<double>>>();
    for (const auto& [name, loss] :
         {std::pair<const char*, Loss>("sequence", rag_sequence_loss), {"token", rag_token_loss}}) {
      const MarginalLoss found = loss(inputs);
      const Json& wanted = item.at(name);
      EXPECT_NEAR(found.loss, wanted.at("loss").get<double>(), 1e-9) << name;
      expect_near(found.score_gradients, wanted.at("score_gradients"));
      for (size_t z = 0; z < inputs.scores.size(); ++z) {
        expect_near(found.token_weights[z], wanted.at("token_weights")[z]);
      }
    }
  }
}

TEST(RagSequence, ScoreGradientIsPriorLessPosterior) {
  const MarginalInputs inputs = some_inputs(3, 4, 5, 0.5);
  const MarginalLoss result = rag_sequence_loss(inputs);
  for (size_t z = 0; z < 3; ++z) {
    EXPECT_EQ(result.score_gradients[z], (result.prior[z] - result.posterior[z]) / 0.5);
    EXPECT_GT(std::fabs(result.score_gradients[z]), 1e-6);
  }
}

TEST(RagSequence, EqualsRagTokenOnOneTokenTargets) {
  const MarginalInputs inputs = some_inputs(5, 1, 21, 0.1);
  const MarginalLoss sequence = rag_sequence_loss(inputs);
  const MarginalLoss token = rag_token_loss(inputs);
  EXPECT_NEAR(sequence.loss, token.loss, 1e-12);
  for (size_t z = 0; z < 5; ++z) {
    EXPECT_NEAR(sequence.posterior[z], token.posterior[z], 1e-12);
    EXPECT_NEAR(sequence.score_gradients[z], token.score_gradients[z], 1e-12);
    EXPECT_NEAR(sequence.token_weights[z][0], token.token_weights[z][0], 1e-12);
  }
}

TEST(RagSequence, DiffersFromRagTokenOnLongerTargets) {
  const MarginalInputs inputs = some_inputs(5, 3, 21, 0.1);
  EXPECT_GT(std::fabs(rag_sequence_loss(inputs).loss - rag_token_loss(inputs).loss), 1e-3);
}

TEST(RagSequence, OfOnePassageIsItsLoss) {
  const MarginalInputs inputs = some_inputs(1, 3, 2, 0.1);
  const MarginalLoss result = rag_sequence_loss(inputs);
  const auto& losses = inputs.token_losses[0];
  EXPECT_NEAR(result.loss, losses[0] + losses[1] + losses[2], 1e-12);
  EXPECT_EQ(result.token_weights[0], std::vector<double>(3, 1.0));
  EXPECT_EQ(result.score_gradients[0], 0.0);
}

TEST(Entropy, OfEvenAndCertainChoices) {
  EXPECT_NEAR(entropy({0.25, 0.25, 0.25, 0.25}), std::log(4.0), 1e-12);
  EXPECT_EQ(entropy({1.0, 0.0}), 0.0);
}

}  // namespace
}  // namespace quarry
