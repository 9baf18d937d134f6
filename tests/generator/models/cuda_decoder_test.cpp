// Decoders on a GPU against the CPU. Built twice, as kernels_cuda_test.cpp is.
#include "generator/models/cuda_decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/json.h"
#include "generator/kernels/device_buffer.h"
#include "generator/models/families.h"
#include "generator/weights/safetensors_file.h"
#include "tests/generator/models/model_test_util.h"
#include "tests/support/expect_error.h"

namespace quarry {
namespace {

using test::expect_error;
using testing_util::all_logits;
using testing_util::logits_in_pieces;
using testing_util::Sequence;

constexpr size_t kVocab = 64;

std::string family_folder(const std::string& name) {
  return std::string(QUARRY_SOURCE_DIR) + "/tests/golden/families/" + name;
}

std::unique_ptr<CausalLm> load_model(const std::string& name,
                                     kernels::Precision precision = kernels::Precision::kFast) {
  const std::string folder = family_folder(name);
  Json config = read_json_file(folder + "/config.json");
  config["max_position_embeddings"] = 512;  // several pages of a cache
  const auto tensors = SafetensorsFile::open(folder);
  CausalLmSource source;
  source.tensors = tensors.get();
  source.config = &config;
  source.description = folder + "/config.json";
  source.weights.load_in = LoadIn::kInt8;
  return find_causal_lm_family(config, source.description).make(source, precision);
}

std::vector<int32_t> some_tokens(size_t count, size_t seed) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>((seed * 17 + i * i * 5 + 3 * i) % kVocab));
  }
  return tokens;
}

// Root mean square difference, relative. Both have the Linears as int8, but some of their sizes the
// CPU has as bfloat16 and the GPU as bytes, as the head: that moves logits by some hundredths of
// their size, another token, place or adapter by all of it.
void expect_near(const std::vector<float>& found, const std::vector<float>& wanted,
                 double part = 0.05) {
  ASSERT_EQ(found.size(), wanted.size());
  double squares = 0.0;
  double total = 0.0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_TRUE(std::isfinite(found[i])) << i;
    squares += std::pow(double{found[i]} - double{wanted[i]}, 2);
    total += std::pow(double{wanted[i]}, 2);
  }
  EXPECT_LE(std::sqrt(squares / total), part);
}

// Sums in another order, nothing else.
void expect_same(const std::vector<float>& found, const std::vector<float>& wanted) {
  expect_near(found, wanted, 2e-3);
}

class CudaFamily : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (kernels::cuda::device_count() == 0) GTEST_SKIP() << "no CUDA device on this machine";
    host_ = load_model(GetParam());
    model_ = make_cuda_decoder(load_model(GetParam()));
    adapter_ = LoraAdapter::load(family_folder(GetParam()) + "/lora", *model_);
  }
  std::unique_ptr<CausalLm> host_;
  std::unique_ptr<CausalLm> model_;
  std::unique_ptr<LoraAdapter> adapter_;
};

TEST_P(CudaFamily, LogitsAreTheCpus) {
  for (const size_t count : {5, 70}) {
    SCOPED_TRACE(count);
    const std::vector<int32_t> tokens = some_tokens(count, count);
    expect_near(all_logits(*model_, tokens), all_logits(*host_, tokens));
    expect_near(all_logits(*model_, tokens, adapter_.get()),
                all_logits(*host_, tokens, adapter_.get()));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CudaFamily,
                         ::testing::Values("mistral", "qwen2", "qwen2_full", "qwen3", "gemma3",
                                           "gemma3_scalar", "phi3"),
                         [](const auto& info) { return std::string(info.param); });

// What does not depend on the family but for windows.
class CudaDecoder : public CudaFamily {};

// Texts with and without the adapter side by side, in pieces of many sizes.
TEST_P(CudaDecoder, CompanyAndPiecesChangeSumsAlone) {
  std::vector<Sequence> sequences;
  for (size_t s = 0; s < 3; ++s) {
    sequences.emplace_back(*model_, some_tokens(75, s), s == 1 ? adapter_.get() : nullptr);
  }
  const std::vector<std::vector<float>> found =
      logits_in_pieces(*model_, sequences, {{1, 63, 1, 10}, {40, 1, 30, 4}, {5, 60, 9, 1}});
  for (size_t s = 0; s < 3; ++s) {
    expect_same(found[s], all_logits(*model_, sequences[s].tokens, sequences[s].adapter));
  }
}

TEST_P(CudaDecoder, OnlyTheLastLogitsWhereTheyAreAskedFor) {
  const Sequence sequence(*model_, some_tokens(20, 1));
  SequenceChunk chunk = sequence.chunk(20);
  chunk.all_logits = false;
  const std::vector<float> last = model_->forward({chunk});
  const std::vector<float> all = all_logits(*model_, sequence.tokens);
  expect_same(last, std::vector<float>(all.end() - kVocab, all.end()));
}

// Two texts go on from one page that they share, and one goes back.
TEST_P(CudaDecoder, SharedPagesAreCopiedBeforeTheyAreWritten) {
  const std::vector<int32_t> first = some_tokens(100, 1);
  std::vector<int32_t> second = some_tokens(110, 2);
  std::copy_n(first.begin(), 70, second.begin());
  Sequence one(*model_, first);
  Sequence two(*model_, second);
  model_->forward({one.chunk(70)});
  two.cache->share(one.cache->pages(), 70);
  const std::vector<float> of_two = model_->forward({two.chunk(40)});
  model_->forward({one.chunk(20)});
  one.cache->truncate(70);
  const std::vector<float> of_one = model_->forward({one.chunk(30)});
  const std::vector<float> alone_one = all_logits(*model_, first);
  const std::vector<float> alone_two = all_logits(*model_, second);
  expect_same(of_one, {alone_one.end() - 30 * kVocab, alone_one.end()});
  expect_same(of_two, {alone_two.end() - 40 * kVocab, alone_two.end()});
}

TEST_P(CudaDecoder, PagesCanBeKeptAndBroughtBack) {
  const std::vector<int32_t> tokens = some_tokens(80, 1);
  Sequence one(*model_, tokens);
  model_->forward({one.chunk(64)});
  std::vector<char> copy(static_cast<size_t>(one.cache->page_bytes()));
  one.cache->pages()[0]->read(copy.data());
  const auto page = std::make_shared<KvPage>(one.cache->page_bytes(), one.cache->page_memory());
  page->write(copy.data());
  Sequence two(*model_, tokens);
  two.cache->share({page}, 64);
  EXPECT_EQ(model_->forward({two.chunk(16)}), model_->forward({one.chunk(16)}));
}

// One query over keys that several blocks share.
TEST_P(CudaDecoder, LongTextsAreSharedOut) {
  Sequence sequence(*model_, some_tokens(303, 1), adapter_.get());
  model_->forward({sequence.chunk(300)});
  std::vector<float> found;
  for (int step = 0; step < 3; ++step) {
    const std::vector<float> logits = model_->forward({sequence.chunk(1)});
    found.insert(found.end(), logits.begin(), logits.end());
  }
  const std::vector<float> all = all_logits(*model_, sequence.tokens, adapter_.get());
  expect_same(found, {all.end() - 3 * kVocab, all.end()});
}

TEST_P(CudaDecoder, CachesStayWithTheirModel) {
  const Sequence of_host(*host_, some_tokens(3, 1));
  EXPECT_THROW(model_->forward({of_host.chunk(3)}), Error);
  const Sequence of_device(*model_, some_tokens(3, 1));
  EXPECT_THROW(host_->forward({of_device.chunk(3)}), Error);
}

// Steps of one shape are captured and replayed: text after text, beside others and alone.
TEST_P(CudaDecoder, StepsThatRepeatGoOnRight) {
  std::vector<Sequence> sequences;
  for (size_t s = 0; s < 2; ++s) {
    sequences.emplace_back(*model_, some_tokens(40, s), s == 1 ? adapter_.get() : nullptr);
  }
  std::vector<std::vector<float>> found(2);
  for (int64_t step = 0; step < 20; ++step) {
    const std::vector<float> logits =
        model_->forward({sequences[0].chunk(1), sequences[1].chunk(1)});
    found[0].insert(found[0].end(), logits.begin(), logits.begin() + kVocab);
    found[1].insert(found[1].end(), logits.begin() + kVocab, logits.end());
  }
  for (int64_t step = 0; step < 20; ++step) {
    for (size_t s = 0; s < 2; ++s) {
      const std::vector<float> logits = model_->forward({sequences[s].chunk(1)});
      found[s].insert(found[s].end(), logits.begin(), logits.end());
    }
  }
  for (size_t s = 0; s < 2; ++s) {
    expect_same(found[s], all_logits(*model_, sequences[s].tokens, sequences[s].adapter));
  }
}

// What is not forward() is the CPU's.
TEST_P(CudaDecoder, LossesAreTheCpus) {
  TokenTree tree;
  tree.tokens = some_tokens(9, 1);
  for (int32_t i = 0; i < 9; ++i) tree.positions.push_back(i);
  tree.segments = {{0, 9, -1}};
  tree.targets = {{8, 5, 1.0f}};
  EXPECT_EQ(model_->target_losses(tree, adapter_.get()),
            host_->target_losses(tree, adapter_.get()));
}

INSTANTIATE_TEST_SUITE_P(Families, CudaDecoder, ::testing::Values("qwen2_full", "gemma3"),
                         [](const auto& info) { return std::string(info.param); });

TEST(CudaDecoderRefusal, KeepsTheModel) {
  std::unique_ptr<CausalLm> gpt2 = load_model("gpt2");
  expect_error([&] { make_cuda_decoder(std::move(gpt2)); }, ErrorCode::kInvalidArgument,
               "family 'gpt2'");
  EXPECT_NE(gpt2, nullptr);
  expect_error([] { make_cuda_decoder(load_model("qwen2", kernels::Precision::kExact)); },
               ErrorCode::kInvalidArgument, "exact products are not made on a GPU");
}

TEST(CudaDecoderRefusal, NamesWhatAnAdapterHasOfItsOwn) {
  if (kernels::cuda::device_count() == 0) GTEST_SKIP() << "no CUDA device on this machine";
  const auto model = make_cuda_decoder(load_model("qwen2"));
  std::map<std::string, FullTensor> full;
  full["lm_head.weight"].shape = {1, 1};
  const LoraAdapter adapter({}, std::move(full));
  const std::string wanted = "has a 'lm_head.weight' of its own";
  expect_error([&] { model->check_adapter(adapter); }, ErrorCode::kInvalidArgument, wanted);
  expect_error(
      [&] {
        all_logits(*model, {1, 2, 3}, &adapter);
      },
      ErrorCode::kInvalidArgument, wanted);
}

}  // namespace
}  // namespace quarry
