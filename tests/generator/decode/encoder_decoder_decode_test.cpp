// Texts of encoder-decoder models as transformers' generate() writes them, through the engine and
// beam search.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <future>

#include "data/core/error.h"
#include "data/core/json.h"
#include "generator/decode/beam_search.h"
#include "generator/decode/marginal_decode.h"
#include "generator/nn/kv_cache.h"
#include "generator/prompt.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

struct Model {
  explicit Model(const std::string& name)
      : folder(std::string(QUARRY_SOURCE_DIR) + "/tests/golden/encoder_decoders/" + name),
        golden(read_json_file(folder + "/golden.json")),
        generator(
            std::make_shared<LoadedGenerator>(load_generator(folder, kernels::Precision::kExact))) {
    const auto file = SafetensorsFile::open(folder + "/golden.safetensors");
    const TensorView& view = file->get("source");
    std::vector<float> values(static_cast<size_t>(view.num_elements()));
    dequantize(view.type, view.data, values.data(), view.num_elements());
    source.assign(values.begin(), values.end());
  }

  std::string folder;
  Json golden;
  std::shared_ptr<LoadedGenerator> generator;
  std::vector<int32_t> source;
};

// What generate() added, without what the decoder is made to begin with and the end token.
std::vector<int32_t> answer_of(const Json& expected, int64_t num_forced) {
  auto tokens = expected["tokens"].get<std::vector<int32_t>>();
  tokens.erase(tokens.begin(), tokens.begin() + num_forced);
  const auto ends = expected["eos"].get<std::vector<int32_t>>();
  const auto end = std::find_first_of(tokens.begin(), tokens.end(), ends.begin(), ends.end());
  tokens.erase(end, tokens.end());
  return tokens;
}

class EncoderDecoderTexts : public ::testing::TestWithParam<const char*> {};

TEST_P(EncoderDecoderTexts, EqualTransformers) {
  const Model model(GetParam());
  const auto num_forced =
      static_cast<int64_t>(model.generator->model->config().decoder_prompt.size()) - 1;
  size_t num_compared = 0;
  for (const Json& expected : model.golden["generate"]) {
    model.generator->stop_tokens = expected["eos"].get<std::vector<int32_t>>();
    Engine engine(model.generator, EngineOptions());
    GenerateRequest request;
    request.prompt = model.source;
    request.max_tokens = expected["max_new_tokens"].get<int64_t>() - num_forced;
    BeamSearchOptions beams;
    beams.num_beams = expected["num_beams"];
    beams.length_penalty = expected["length_penalty"];
    const GenerateResult found = beams.num_beams > 1 ? beam_search(engine, request, beams, nullptr)
                                                     : engine.submit(request, nullptr).result.get();
    EXPECT_EQ(found.error, "");
    EXPECT_EQ(found.tokens, answer_of(expected, num_forced)) << expected.dump();
    EXPECT_EQ(found.text, model.generator->tokenizer->decode(found.tokens));
    EXPECT_EQ(found.prompt_tokens, static_cast<int64_t>(model.source.size()));
    ++num_compared;
  }
  EXPECT_EQ(num_compared, 12u);
}

TEST_P(EncoderDecoderTexts, PromptsStandBetweenTheTokensOfTheTokenizer) {
  const Model model(GetParam());
  for (const Json& expected : model.golden["texts"]) {
    const std::string text = expected["text"];
    EXPECT_EQ(render_chat(*model.generator, {{"user", text}}),
              expected["ids"].get<std::vector<int32_t>>())
        << text;
  }
  EXPECT_EQ(render_chat(*model.generator, {{"system", "ab"}, {"user", "abc"}}),
            model.generator->tokenizer->encode("ab\n\nabc", Tokenizer::SpecialTokens::kAdd));
}

// Prompts side by side, one after the other and again: nothing of one is another's.
TEST_P(EncoderDecoderTexts, CompanyAndRepetitionDoNotChangeThem) {
  const Model model(GetParam());
  model.generator->stop_tokens.clear();
  std::vector<GenerateRequest> requests(3);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = model.source;
    requests[i].prompt.resize(model.source.size() - 7 * i);
    requests[i].max_tokens = 12;
    requests[i].top_logprobs = 2;
  }
  std::vector<GenerateResult> alone;
  for (const GenerateRequest& request : requests) {
    EngineOptions options;
    options.prompt_lookup = false;
    Engine engine(model.generator, options);
    alone.push_back(engine.submit(request, nullptr).result.get());
  }
  Engine together(model.generator, EngineOptions());
  std::vector<std::future<GenerateResult>> running;
  for (size_t i = 0; i < 6; ++i) {
    running.push_back(together.submit(requests[i % 3], nullptr).result);
  }
  for (size_t i = 0; i < running.size(); ++i) {
    const GenerateResult found = running[i].get();
    const GenerateResult& wanted = alone[i % 3];
    EXPECT_EQ(found.tokens, wanted.tokens);
    ASSERT_EQ(found.logprobs.size(), 12u);
    for (size_t t = 0; t < 12; ++t) {
      EXPECT_EQ(found.logprobs[t].logprob, wanted.logprobs[t].logprob);
    }
    EXPECT_EQ(found.cached_tokens, 0);
  }
  EXPECT_EQ(together.stats().prompt_tokens_total,
            static_cast<int64_t>(2 * (3 * model.source.size() - 21)));
}

// One passage: the marginal is what the model says.
TEST_P(EncoderDecoderTexts, MarginalOverOnePassageIsGreedy) {
  const Model model(GetParam());
  const Json& expected = model.golden["generate"][0];
  const auto num_forced =
      static_cast<int64_t>(model.generator->model->config().decoder_prompt.size()) - 1;
  MarginalRequest request;
  request.prompts = {model.source};
  request.log_prior = {0.0};
  request.stop_tokens = expected["eos"].get<std::vector<int32_t>>();
  request.max_tokens = expected["max_new_tokens"].get<int64_t>() - num_forced;
  for (const Marginal marginal : {Marginal::kSequence, Marginal::kToken}) {
    const MarginalResult found = decode_marginal(
        *model.generator->model, marginal, request, [](const std::function<void()>& job) { job(); },
        nullptr);
    EXPECT_EQ(found.tokens, answer_of(expected, num_forced));
  }
}

TEST_P(EncoderDecoderTexts, TooLongPromptsAreRefused) {
  const Model model(GetParam());
  const int64_t context = model.generator->model->config().max_seq_len;
  Engine engine(model.generator, EngineOptions());
  GenerateRequest request;
  request.max_tokens = 1;
  request.prompt.assign(static_cast<size_t>(context), 3);
  EXPECT_EQ(engine.submit(request, nullptr).result.get().error, "");
  request.prompt.push_back(3);
  try {
    engine.submit(request, nullptr);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("the prompt has " + std::to_string(context + 1)));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, EncoderDecoderTexts,
                         ::testing::Values("t5", "t5_gated", "mt5", "bart"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace quarry
