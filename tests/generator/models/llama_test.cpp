#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "data/core/error.h"
#include "data/core/paths.h"
#include "generator/models/folder_text.h"
#include "generator/weights/safetensors_file.h"
#include "tests/generator/models/model_test_util.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using testing_util::all_logits;
using testing_util::golden;
using testing_util::Sequence;

struct Golden {
  explicit Golden(const std::string& folder)
      : file(SafetensorsFile::open(golden(folder) + "/golden.safetensors")) {
    const TensorView& view = file->get("tokens");
    std::vector<float> ids(static_cast<size_t>(view.num_elements()));
    dequantize(view.type, view.data, ids.data(), view.num_elements());
    for (float id : ids) tokens.push_back(static_cast<int32_t>(id));
  }
  std::vector<float> logits(const std::string& name) const {
    const TensorView& view = file->get(name);
    std::vector<float> values(static_cast<size_t>(view.num_elements()));
    dequantize(view.type, view.data, values.data(), view.num_elements());
    return values;
  }
  std::unique_ptr<SafetensorsFile> file;
  std::vector<int32_t> tokens;
};

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0.0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    worst = std::max(worst, static_cast<double>(std::fabs(a[i] - b[i])));
    if (!std::isfinite(a[i])) return INFINITY;
  }
  return worst;
}

class TinyLlama : public ::testing::TestWithParam<const char*> {};

TEST_P(TinyLlama, ExactLogitsEqualTransformers) {
  const Golden expected(GetParam());
  const LoadedGenerator loaded = load_generator(golden(GetParam()), kernels::Precision::kExact);
  EXPECT_LE(max_difference(all_logits(*loaded.model, expected.tokens), expected.logits("logits")),
            2e-4);
}

TEST_P(TinyLlama, AdaptersEqualPeft) {
  const Golden expected(GetParam());
  const LoadedGenerator loaded = load_generator(golden(GetParam()), kernels::Precision::kExact);
  for (const std::string name : {"lora_all", "lora_qv"}) {
    const auto adapter = LoraAdapter::load(golden(GetParam()) + "/" + name, *loaded.model);
    const std::vector<float> logits = all_logits(*loaded.model, expected.tokens, adapter.get());
    EXPECT_LE(max_difference(logits, expected.logits(name)), 4e-4) << name;
    EXPECT_GT(max_difference(logits, expected.logits("logits")), 0.1) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, TinyLlama, ::testing::Values("llama", "llama_scaled"));

TEST(Llama, FastLogitsAreNearTheExactOnes) {
  const Golden expected("llama");
  const LoadedGenerator loaded = load_generator(golden("llama"), kernels::Precision::kFast);
  EXPECT_LE(max_difference(all_logits(*loaded.model, expected.tokens), expected.logits("logits")),
            0.35);
}

class LlamaBatching : public ::testing::TestWithParam<kernels::Precision> {};

// The promise of causal_lm.h, to the bit: neither the cut of a prompt nor the company changes it.
TEST_P(LlamaBatching, ChunksAndCompanyDoNotChangeLogits) {
  const LoadedGenerator loaded = load_generator(golden("llama"), GetParam());
  const CausalLm& model = *loaded.model;
  const auto adapter = LoraAdapter::load(golden("llama/lora_all"), model);
  const auto other = LoraAdapter::load(golden("llama/lora_qv"), model);
  std::vector<std::vector<int32_t>> tokens(4);
  for (size_t s = 0; s < tokens.size(); ++s) {
    for (size_t i = 0; i < 70; ++i) {
      tokens[s].push_back(static_cast<int32_t>((s * 61 + i * i * 7 + 3) % 288));
    }
  }
  const LoraAdapter* adapters[] = {adapter.get(), nullptr, other.get(), adapter.get()};
  const size_t vocab = 288;

  std::vector<std::vector<float>> alone;
  for (size_t s = 0; s < tokens.size(); ++s) {
    alone.push_back(all_logits(model, tokens[s], adapters[s]));
  }

  // Uneven pieces, a different one for each sequence, all in one batch.
  const std::vector<int64_t> pieces[] = {
      {1, 33, 1, 1, 34}, {17, 16, 16, 20, 1}, {64, 1, 1, 3, 1}, {5, 5, 5, 50, 5}};
  std::vector<Sequence> sequences;
  for (size_t s = 0; s < tokens.size(); ++s) sequences.emplace_back(model, tokens[s], adapters[s]);
  for (size_t step = 0; step < 5; ++step) {
    std::vector<SequenceChunk> chunks;
    for (size_t s = 0; s < sequences.size(); ++s) {
      chunks.push_back(sequences[s].chunk(pieces[s][step]));
    }
    std::vector<size_t> first;
    for (const Sequence& sequence : sequences) {
      first.push_back(static_cast<size_t>(sequence.cache->length()));
    }
    const std::vector<float> logits = model.forward(chunks);
    size_t row = 0;
    for (size_t s = 0; s < sequences.size(); ++s) {
      const size_t count = static_cast<size_t>(pieces[s][step]);
      const std::vector<float> got(logits.begin() + static_cast<long>(row * vocab),
                                   logits.begin() + static_cast<long>((row + count) * vocab));
      const std::vector<float> want(
          alone[s].begin() + static_cast<long>(first[s] * vocab),
          alone[s].begin() + static_cast<long>((first[s] + count) * vocab));
      EXPECT_EQ(got, want) << "sequence " << s << " step " << step;
      row += count;
    }
  }
}

TEST_P(LlamaBatching, LastLogitsAreTheLastRow) {
  const LoadedGenerator loaded = load_generator(golden("llama"), GetParam());
  const std::vector<int32_t> tokens = {5, 9, 200, 31};
  const std::vector<float> all = all_logits(*loaded.model, tokens);
  const Sequence sequence(*loaded.model, tokens);
  SequenceChunk chunk = sequence.chunk(4);
  chunk.all_logits = false;
  const std::vector<float> last = loaded.model->forward({chunk});
  EXPECT_EQ(last, std::vector<float>(all.end() - 288, all.end()));
  EXPECT_EQ(sequence.cache->length(), 4);
}

TEST_P(LlamaBatching, ATruncatedCacheContinuesAsIfFresh) {
  const LoadedGenerator loaded = load_generator(golden("llama"), GetParam());
  const std::vector<int32_t> tokens = {5, 9, 200, 31, 77, 8};
  const Sequence sequence(*loaded.model, tokens);
  loaded.model->forward({sequence.chunk(6)});
  sequence.cache->truncate(3);
  const std::vector<float> again = loaded.model->forward({sequence.chunk(3)});
  const std::vector<float> all = all_logits(*loaded.model, tokens);
  EXPECT_EQ(again, std::vector<float>(all.begin() + 3 * 288, all.end()));
}

INSTANTIATE_TEST_SUITE_P(Precisions, LlamaBatching,
                         ::testing::Values(kernels::Precision::kExact, kernels::Precision::kFast),
                         [](const auto& info) {
                           return info.param == kernels::Precision::kExact ? "Exact" : "Fast";
                         });

TEST(Llama, BadChunksAreRefused) {
  const LoadedGenerator loaded = load_generator(golden("llama"), kernels::Precision::kExact);
  const auto message = [&](std::vector<int32_t> tokens, int64_t count) -> std::string {
    const Sequence sequence(*loaded.model, std::move(tokens));
    try {
      loaded.model->forward({sequence.chunk(count)});
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_EQ(sequence.cache->length(), 0);
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(message({1, 288}, 2), HasSubstr("token 288 is outside the vocabulary of 288"));
  EXPECT_THAT(message({-1}, 1), HasSubstr("token -1 is outside the vocabulary of 288"));
  EXPECT_THAT(message({1}, 0), HasSubstr("at least one token, got 0"));
  EXPECT_THAT(message(std::vector<int32_t>(129, 1), 129),
              HasSubstr("sequence of 129 tokens: the model's context holds 128"));
  EXPECT_TRUE(loaded.model->forward({}).empty());
}

TEST(LoadGenerator, FolderBringsTokenizerTemplateAndStopTokens) {
  const LoadedGenerator loaded = load_generator(golden("llama_scaled"), kernels::Precision::kFast);
  EXPECT_EQ(loaded.name, "llama_scaled");
  EXPECT_EQ(loaded.content_hash.size(), 64u);
  EXPECT_EQ(loaded.stop_tokens, (std::vector<int32_t>{2, 0}));
  ASSERT_NE(loaded.chat_template, nullptr);
  EXPECT_EQ(loaded.chat_template->render({{"user", "Hi"}}, true),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(loaded.model->config().head_dim, 24);
  EXPECT_EQ(loaded.model->linear_slots().size(), 14u);
}

TEST(LoadGenerator, AChatTemplateThatDoesNotParseIsNamedByItsFile) {
  const test::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "chat_template.jinja";
  write_file_atomically(path, "{% oops %}");
  try {
    load_folder_chat_template(folder.path());
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(path.string() + ": "));
    EXPECT_THAT(error.what(), HasSubstr("tag \"oops\" is not supported"));
  }
}

TEST(LoadGenerator, UnknownFamilyIsNamed) {
  try {
    load_generator(golden("bert"), kernels::Precision::kFast);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("generator family 'BertModel' is not supported (known: "
                                        "LlamaForCausalLM, MistralForCausalLM, "));
  }
}

}  // namespace
}  // namespace quarry
