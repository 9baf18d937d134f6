#include "generator/decode/beam_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "data/core/error.h"
#include "data/core/json.h"
#include "tests/generator/decode/fake_model.h"
#include "tests/support/expect_error.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

std::string golden(const std::string& name) {
  return std::string(QUARRY_SOURCE_DIR) + "/tests/golden/" + name;
}

Json read_json(const std::string& path) {
  std::ifstream file(path);
  return Json::parse(file);
}

std::shared_ptr<LoadedGenerator> tiny_generator(const std::string& model) {
  return std::make_shared<LoadedGenerator>(
      load_generator(golden("models/" + model), kernels::Precision::kExact));
}

TEST(BeamSearch, TextsEqualTransformers) {
  size_t num_ended = 0;
  std::map<std::string, std::shared_ptr<LoadedGenerator>> generators;
  for (const char* name : {"llama", "llama_scaled"}) generators[name] = tiny_generator(name);
  for (const Json& expected : read_json(golden("beams/golden.json"))) {
    const auto ends = expected["eos"].get<std::vector<int32_t>>();
    const std::shared_ptr<LoadedGenerator> generator = generators.at(expected["model"]);
    generator->stop_tokens = ends;
    Engine engine(generator, EngineOptions());
    GenerateRequest request;
    request.prompt = expected["prompt"].get<std::vector<int32_t>>();
    request.max_tokens = expected["max_tokens"];
    BeamSearchOptions options;
    options.num_beams = expected["num_beams"];
    options.length_penalty = expected["length_penalty"];
    const GenerateResult result = beam_search(engine, request, options, nullptr);
    auto tokens = expected["tokens"].get<std::vector<int32_t>>();
    const bool ended = std::find(ends.begin(), ends.end(), tokens.back()) != ends.end();
    if (ended) tokens.pop_back();
    num_ended += ended;
    EXPECT_EQ(result.tokens, tokens) << expected.dump();
    EXPECT_EQ(result.finish_reason, ended ? FinishReason::kStop : FinishReason::kLength);
  }
  EXPECT_GT(num_ended, 50u);
}

TEST(BeamSearch, OneBeamIsGreedy) {
  Engine engine(tiny_generator("llama"), EngineOptions());
  GenerateRequest request;
  request.prompt = {5, 77, 130, 9};
  request.max_tokens = 30;
  const GenerateResult greedy = engine.submit(request, nullptr).result.get();
  const GenerateResult beam = beam_search(engine, request, BeamSearchOptions(), nullptr);
  EXPECT_EQ(beam.tokens, greedy.tokens);
  EXPECT_EQ(beam.text, greedy.text);
  EXPECT_EQ(beam.finish_reason, greedy.finish_reason);
  EXPECT_EQ(beam.prompt_tokens, 4);
}

struct Rig {
  Rig() {
    auto owned = std::make_unique<fake::Model>(
        fake::scripted(1, {'I', 't', ' ', 'i', 's', ' ', '4', '2', '.'}));
    engine = std::make_unique<Engine>(fake::make_generator(std::move(owned)), EngineOptions());
    request.prompt = {'?'};
    options.num_beams = 3;
  }
  void expect_error(const std::string& message) {
    test::expect_error([&] { beam_search(*engine, request, options, nullptr); },
                       ErrorCode::kInvalidArgument, message);
  }
  std::unique_ptr<Engine> engine;
  GenerateRequest request;
  BeamSearchOptions options;
};

TEST(BeamSearch, TextIsShownAtTheEndAndCutAtAStopString) {
  Rig rig;
  rig.request.max_tokens = 9;
  rig.request.stop = {" 4"};
  std::string shown;
  const GenerateResult result =
      beam_search(*rig.engine, rig.request, rig.options, [&](const std::string& text) {
        shown += text;
        return true;
      });
  EXPECT_EQ(result.text, "It is");
  EXPECT_EQ(shown, "It is");
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
}

TEST(BeamSearch, ACallbackThatReturnsFalseCancels) {
  Rig rig;
  int calls = 0;
  const GenerateResult result = beam_search(*rig.engine, rig.request, rig.options,
                                            [&](const std::string&) { return ++calls < 4; });
  EXPECT_EQ(result.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(calls, 4);
}

TEST(BeamSearch, BadOptionsAreRefusedWithTheReason) {
  Rig rig;
  rig.options.num_beams = 33;
  rig.expect_error("num_beams is 33, must be 1 to 32");
  rig.options.num_beams = 2;
  rig.request.sampling.temperature = 0.5;
  rig.expect_error("temperature is 0.5, must be 0");
  rig.request.sampling.temperature = 0.0;
  rig.request.top_logprobs = 1;
  rig.expect_error("beam search gives no log-probabilities");
  rig.request.top_logprobs = -1;
  rig.request.prompt.clear();
  rig.expect_error("the prompt has 0 tokens");
}

}  // namespace
}  // namespace quarry
