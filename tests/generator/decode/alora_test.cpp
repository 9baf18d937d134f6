// Activated LoRA against PEFT 0.21 (tests/golden/peft/alora), and what it shares with its base.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/json.h"
#include "generator/decode/beam_search.h"
#include "generator/decode/engine.h"
#include "generator/nn/kv_cache.h"
#include "generator/nn/lora.h"
#include "generator/weights/safetensors_file.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::filesystem::path kGolden = QUARRY_SOURCE_DIR "/tests/golden";
const std::filesystem::path kAdapter = kGolden / "peft" / "alora";

class ActivatedLoraTest : public testing::Test {
 protected:
  ActivatedLoraTest()
      : golden_(SafetensorsFile::open(kAdapter / "golden.safetensors")),
        generator_(std::make_shared<const LoadedGenerator>(
            load_generator((kGolden / "models" / "llama").string(), kernels::Precision::kExact))),
        adapter_(LoraAdapter::load(kAdapter, *generator_->model, ActivatedLora::kAccept)) {}

  std::vector<int32_t> row(const std::string& name, int64_t index) const {
    const TensorView& tensor = golden_->get(name);
    std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
    decode_tensor(tensor, values.data());
    const auto begin = values.begin() + index * tensor.shape[1];
    return {begin, begin + tensor.shape[1]};
  }
  GenerateRequest request_of(std::vector<int32_t> prompt, const std::string& adapter) const {
    GenerateRequest request;
    request.prompt = std::move(prompt);
    request.max_tokens = 8;
    request.adapter = adapter;
    return request;
  }
  std::unique_ptr<Engine> make_engine() const {
    auto engine = std::make_unique<Engine>(generator_, EngineOptions());
    engine->adapters().load("alora", kAdapter);
    return engine;
  }

  std::unique_ptr<SafetensorsFile> golden_;
  std::shared_ptr<const LoadedGenerator> generator_;
  std::unique_ptr<LoraAdapter> adapter_;
};

TEST_F(ActivatedLoraTest, BeginsWhereItsTokensOccurLast) {
  const auto begin = [&](const std::vector<int32_t>& prompt) {
    return AdapterReach(adapter_.get(), prompt).begin();
  };
  EXPECT_THAT(adapter_->invocation_tokens(), ElementsAre(7, 9, 7));
  EXPECT_EQ(begin({7, 9, 7}), 0);
  EXPECT_EQ(begin({1, 7, 9, 7, 9, 7, 2}), 3);
  EXPECT_EQ(begin({7, 9, 7, 1, 7, 9}), 0);
  EXPECT_EQ(begin({7, 9}), AdapterReach::kNever);
  EXPECT_EQ(AdapterReach(nullptr, {1}).begin(), 0);
  const AdapterReach reach(adapter_.get(), {1, 2, 7, 9, 7});
  EXPECT_EQ(reach.at(1), nullptr);
  EXPECT_EQ(reach.at(2), adapter_.get());
  EXPECT_EQ(reach.cut(0, 5), 2);
  EXPECT_EQ(reach.cut(0, 1), 1);
  EXPECT_EQ(reach.cut(2, 3), 3);
}

TEST_F(ActivatedLoraTest, LogitsAreThoseOfPeft) {
  const TensorView& logits = golden_->get("logits");
  std::vector<float> wanted(static_cast<size_t>(logits.num_elements()));
  decode_tensor(logits, wanted.data());
  std::vector<float> found;
  for (int64_t i = 0; i < logits.shape[0]; ++i) {
    const std::vector<int32_t> tokens = row("input_ids", i);
    const AdapterReach reach(adapter_.get(), tokens);
    const auto cache = generator_->model->make_cache();
    SequenceChunk chunk;
    chunk.cache = cache.get();
    chunk.all_logits = true;
    const auto length = static_cast<int64_t>(tokens.size());
    for (int64_t at = 0; at < length; at += chunk.num_tokens) {
      chunk.tokens = tokens.data() + at;
      chunk.num_tokens = reach.cut(at, length - at);
      chunk.adapter = reach.at(at);
      const std::vector<float> part = generator_->model->forward({chunk});
      found.insert(found.end(), part.begin(), part.end());
    }
  }
  ASSERT_EQ(found.size(), wanted.size());
  float largest = 0;
  for (const float value : wanted) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(found[i], wanted[i], 1e-5f * largest) << i;
}

TEST_F(ActivatedLoraTest, TextsAreThoseOfPeftAndBeamsOfOneTheSame) {
  const auto engine = make_engine();
  for (int64_t i = 0; i < 3; ++i) {
    const GenerateRequest request = request_of(row("input_ids", i), "alora");
    EXPECT_EQ(engine->submit(request, nullptr).result.get().tokens, row("generated", i)) << i;
    BeamSearchOptions options;
    options.num_beams = 1;
    EXPECT_EQ(beam_search(*engine, request, options, nullptr).tokens, row("generated", i)) << i;
  }
  // Without its tokens in the prompt it is the base.
  const auto base = engine->submit(request_of(row("input_ids", 2), ""), nullptr).result.get();
  EXPECT_EQ(base.tokens, row("generated", 2));
}

TEST_F(ActivatedLoraTest, SharesThePrefixesOfItsBaseUpToItsTokens) {
  std::vector<int32_t> passage;
  for (int32_t i = 0; i < 100; ++i) passage.push_back(10 + i * i % 97);
  std::vector<int32_t> invoked = passage;
  for (const int32_t token : {7, 9, 7, 20, 21}) invoked.push_back(token);
  const auto fresh = make_engine()->submit(request_of(invoked, "alora"), nullptr).result.get();
  EXPECT_EQ(fresh.cached_tokens, 0);

  const auto engine = make_engine();
  engine->submit(request_of(passage, ""), nullptr).result.get();
  const int64_t base_bytes = engine->stats().prefix_cache_bytes;
  const auto first = engine->submit(request_of(invoked, "alora"), nullptr).result.get();
  EXPECT_EQ(first.cached_tokens, 100);
  EXPECT_EQ(first.tokens, fresh.tokens);
  const int64_t page_bytes = generator_->model->make_cache()->page_bytes();
  EXPECT_EQ(engine->stats().prefix_cache_bytes, base_bytes + page_bytes);  // whole pages are shared
  const auto second = engine->submit(request_of(invoked, "alora"), nullptr).result.get();
  EXPECT_EQ(second.cached_tokens, 104);
  EXPECT_EQ(second.tokens, fresh.tokens);
  // The base reads none of what the adapter computed.
  const auto base = engine->submit(request_of(invoked, ""), nullptr).result.get();
  EXPECT_EQ(base.cached_tokens, 100);
  const auto fresh_base = make_engine()->submit(request_of(invoked, ""), nullptr).result.get();
  EXPECT_EQ(base.tokens, fresh_base.tokens);

  const test::TemporaryFolder folder;
  engine->save_prefixes(folder.path() / "prefixes");
  const int64_t kept_bytes = engine->stats().prefix_cache_bytes;
  const auto later = make_engine();
  EXPECT_EQ(later->load_prefixes(folder.path() / "prefixes").bytes, kept_bytes);
  const auto third = later->submit(request_of(invoked, "alora"), nullptr).result.get();
  EXPECT_EQ(third.cached_tokens, 104);
  EXPECT_EQ(third.tokens, fresh.tokens);
}

template <typename Action>
void expect_refused(const Action& action, const std::string& message) {
  test::expect_error(action, ErrorCode::kInvalidArgument, message);
}

TEST_F(ActivatedLoraTest, IsNeitherMixedNorTrainedOn) {
  const auto engine = make_engine();
  expect_refused(
      [&] {
        engine->adapters().combine("mix", {{"alora", 0.5}});
      },
      "adapter 'alora' acts from its alora_invocation_tokens on only");
  expect_refused([&] { engine->adapters().fuse({{"alora", 1.0}}); }, "cannot be mixed or fused");
  expect_refused([&] { LoraAdapter::load(kAdapter, *generator_->model); },
                 "alora_invocation_tokens is [7,9,7]");
}

}  // namespace
}  // namespace quarry
