// Every decoder-only family against what transformers and PEFT compute with tests/golden/families.
#include "generator/models/families.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "data/core/error.h"
#include "data/core/json.h"
#include "generator/nn/lora_training.h"
#include "generator/weights/gguf_file.h"
#include "generator/weights/safetensors_file.h"
#include "tests/generator/models/model_test_util.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using testing_util::all_logits;
using testing_util::logits_in_pieces;
using testing_util::Sequence;

constexpr size_t kVocab = 64;
constexpr int64_t kGreedyPrompt = 5;

std::string family_folder(const std::string& name) {
  return std::string(QUARRY_SOURCE_DIR) + "/tests/golden/families/" + name;
}

std::unique_ptr<CausalLm> load_model(const std::string& name, kernels::Precision precision,
                                     LoadIn load_in = LoadIn::kAsIs) {
  const std::string folder = family_folder(name);
  const Json config = read_json_file(folder + "/config.json");
  const auto tensors = SafetensorsFile::open(folder);
  CausalLmSource source;
  source.tensors = tensors.get();
  source.config = &config;
  source.description = folder + "/config.json";
  source.weights.load_in = load_in;
  return find_causal_lm_family(config, source.description).make(source, precision);
}

std::unique_ptr<CausalLm> load_gguf(const std::string& name) {
  const auto file = GgufFile::open(family_folder(name) + "/model.gguf");
  return find_causal_lm_family(*file).make(gguf_source(*file), kernels::Precision::kExact);
}

struct Golden {
  explicit Golden(const std::string& name)
      : file(SafetensorsFile::open(family_folder(name) + "/golden.safetensors")) {}

  std::vector<float> floats(const std::string& name) const {
    const TensorView& view = file->get(name);
    std::vector<float> values(static_cast<size_t>(view.num_elements()));
    dequantize(view.type, view.data, values.data(), view.num_elements());
    return values;
  }
  std::vector<int32_t> ids(const std::string& name) const {
    const std::vector<float> values = floats(name);
    return {values.begin(), values.end()};
  }
  std::unique_ptr<SafetensorsFile> file;
};

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0.0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    worst = std::max(worst, std::fabs(double{a[i]} - double{b[i]}));
  }
  return worst;
}

// Logits of this size carry float32's rounding of their own.
double tolerance(const std::vector<float>& wanted) {
  float largest = 1.0f;
  for (const float value : wanted) largest = std::max(largest, std::fabs(value));
  return 1e-4 * std::max(1.0, double{largest} / 10.0);
}

int32_t best(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::max_element(logits.end() - kVocab, logits.end()) -
                              (logits.end() - kVocab));
}

class Family : public ::testing::TestWithParam<const char*> {};

TEST_P(Family, LogitsEqualTransformers) {
  const Golden golden(GetParam());
  const auto model = load_model(GetParam(), kernels::Precision::kExact);
  const std::vector<float> wanted = golden.floats("logits");
  EXPECT_LE(max_difference(all_logits(*model, golden.ids("tokens")), wanted), tolerance(wanted));
}

TEST_P(Family, AdaptersEqualPeft) {
  const Golden golden(GetParam());
  const auto model = load_model(GetParam(), kernels::Precision::kExact);
  const auto adapter = LoraAdapter::load(family_folder(GetParam()) + "/lora", *model);
  const std::vector<float> wanted = golden.floats("lora");
  const std::vector<float> found = all_logits(*model, golden.ids("tokens"), adapter.get());
  EXPECT_LE(max_difference(found, wanted), tolerance(wanted));
  EXPECT_GT(max_difference(found, golden.floats("logits")), 0.1);
}

TEST_P(Family, GreedyTextEqualsTransformersTokenByToken) {
  const Golden golden(GetParam());
  const auto model = load_model(GetParam(), kernels::Precision::kExact);
  std::vector<int32_t> text = golden.ids("tokens");
  text.resize(kGreedyPrompt);
  Sequence sequence(*model, text);
  std::vector<float> logits = model->forward({sequence.chunk(kGreedyPrompt)});
  std::vector<int32_t> found;
  const std::vector<int32_t> wanted = golden.ids("greedy");
  while (found.size() < wanted.size()) {
    found.push_back(best(logits));
    sequence.tokens.push_back(found.back());
    logits = model->forward({sequence.chunk(1)});
  }
  EXPECT_EQ(found, wanted);
  // With the cache as without it.
  const std::vector<float> again = all_logits(*model, sequence.tokens);
  EXPECT_EQ(std::vector<float>(again.end() - kVocab, again.end()), logits);
}

TEST_P(Family, CompanyAndPiecesDoNotChangeLogits) {
  const auto model = load_model(GetParam(), kernels::Precision::kFast);
  const auto adapter = LoraAdapter::load(family_folder(GetParam()) + "/lora", *model);
  std::vector<std::vector<int32_t>> tokens(3);
  for (size_t s = 0; s < tokens.size(); ++s) {
    for (size_t i = 0; i < 18; ++i) {
      tokens[s].push_back(static_cast<int32_t>((s * 17 + i * i * 5 + 3) % kVocab));
    }
  }
  const LoraAdapter* adapters[] = {nullptr, adapter.get(), nullptr};
  std::vector<Sequence> sequences;
  for (size_t s = 0; s < tokens.size(); ++s) sequences.emplace_back(*model, tokens[s], adapters[s]);
  const std::vector<std::vector<float>> found =
      logits_in_pieces(*model, sequences, {{1, 9, 8}, {10, 1, 7}, {5, 5, 8}});
  for (size_t s = 0; s < 3; ++s) {
    EXPECT_EQ(found[s], all_logits(*model, tokens[s], adapters[s])) << s;
  }
}

TEST_P(Family, QuantizedLoadsStayNear) {
  const Golden golden(GetParam());
  const std::vector<float> exact = golden.floats("logits");
  for (const LoadIn load_in : {LoadIn::kNF4, LoadIn::kInt8}) {
    const auto model = load_model(GetParam(), kernels::Precision::kFast, load_in);
    const std::vector<float> found = all_logits(*model, golden.ids("tokens"));
    ASSERT_EQ(found.size(), exact.size());
    double product = 0.0;
    double squares[2] = {};
    for (size_t i = 0; i < exact.size(); ++i) {
      product += double{found[i]} * exact[i];
      squares[0] += double{found[i]} * found[i];
      squares[1] += double{exact[i]} * exact[i];
    }
    EXPECT_GT(product / std::sqrt(squares[0] * squares[1]), load_in == LoadIn::kInt8 ? 0.99 : 0.6);
  }
}

// Every sequence a tree, the mean over all targets.
std::vector<TokenTree> golden_batch(const Golden& golden) {
  const std::vector<int32_t> ids = golden.ids("input_ids");
  const std::vector<int32_t> labels = golden.ids("labels");
  const int64_t length = golden.file->get("input_ids").shape[1];
  std::vector<TokenTree> batch;
  size_t num_targets = 0;
  for (size_t begin = 0; begin < ids.size(); begin += static_cast<size_t>(length)) {
    TokenTree tree;
    for (int32_t t = 0; t < length; ++t) {
      const size_t at = begin + static_cast<size_t>(t);
      tree.tokens.push_back(ids[at]);
      tree.positions.push_back(t);
      if (t > 0 && labels[at] >= 0) tree.targets.push_back({t - 1, labels[at], 1.0f});
    }
    tree.segments = {{0, length, -1}};
    num_targets += tree.targets.size();
    batch.push_back(std::move(tree));
  }
  for (TokenTree& tree : batch) {
    for (TokenTree::Target& target : tree.targets) {
      target.weight = 1.0f / static_cast<float>(num_targets);
    }
  }
  return batch;
}

TEST_P(Family, LossAndGradientsEqualPeft) {
  const Golden golden(GetParam());
  const auto model = load_model(GetParam(), kernels::Precision::kExact);
  const auto adapter = LoraAdapter::load(family_folder(GetParam()) + "/lora", *model);
  for (const bool checkpoint_layers : {false, true}) {
    LoraGradients gradients(*adapter);
    GradientOptions options;
    options.compute = GradientOptions::Compute::kFloat32;
    options.checkpoint_layers = checkpoint_layers;
    double loss = 0.0;
    for (const TokenTree& tree : golden_batch(golden)) {
      for (const float value : model->accumulate_gradients(tree, *adapter, options, gradients)) {
        loss += double{value} * double{tree.targets[0].weight};
      }
    }
    EXPECT_NEAR(loss, golden.floats("loss")[0], 1e-5 * std::max(1.0, loss));
    size_t compared = 0;
    for (const auto& [path, pair] : gradients.pairs()) {
      for (const char* half : {".lora_A.weight", ".lora_B.weight"}) {
        const std::vector<float> wanted = golden.floats("grad.base_model.model." + path + half);
        float largest = 1.0f;
        for (const float value : wanted) largest = std::max(largest, std::fabs(value));
        EXPECT_LE(max_difference(half[6] == 'A' ? pair.a : pair.b, wanted), 1e-5 * largest)
            << path << half;
        ++compared;
      }
    }
    EXPECT_EQ(compared, 2 * model->linear_slots().size());
  }
}

// Sequences that share their beginning learn what each would alone: windows and linear biases count
// places on the path.
TEST_P(Family, SharedBeginningsChangeNothing) {
  const auto model = load_model(GetParam(), kernels::Precision::kExact);
  const auto adapter = LoraAdapter::load(family_folder(GetParam()) + "/lora", *model);
  const auto token = [](int32_t i) { return (i * i * 7 + 11) % static_cast<int32_t>(kVocab); };
  TokenTree tree;
  tree.segments = {{0, 9, -1}, {9, 14, 0}, {14, 19, 0}};
  std::vector<TokenTree> alone(2);
  for (int32_t i = 0; i < 19; ++i) {
    tree.tokens.push_back(token(i));
    tree.positions.push_back(i < 14 ? i : i - 5);
  }
  for (size_t path = 0; path < 2; ++path) {
    alone[path].segments = {{0, 14, -1}};
    for (int32_t i = 0; i < 14; ++i) {
      const int32_t row = i < 9 ? i : i + static_cast<int32_t>(path) * 5;
      alone[path].tokens.push_back(token(row));
      alone[path].positions.push_back(i);
      if (i < 9) continue;
      tree.targets.push_back({row, token(row + 3), 1.0f});
      alone[path].targets.push_back({i, token(row + 3), 1.0f});
    }
  }
  GradientOptions options;
  options.compute = GradientOptions::Compute::kFloat32;
  LoraGradients together(*adapter);
  LoraGradients apart(*adapter);
  const auto losses = model->accumulate_gradients(tree, *adapter, options, together);
  std::vector<float> wanted;
  for (const TokenTree& path : alone) {
    const auto part = model->accumulate_gradients(path, *adapter, options, apart);
    wanted.insert(wanted.end(), part.begin(), part.end());
  }
  EXPECT_EQ(losses, wanted);
  for (const auto& [path, pair] : apart.pairs()) {
    double largest = 0.0;
    for (const float value : pair.a) largest = std::max(largest, std::fabs(double{value}));
    EXPECT_LE(max_difference(together.at(path).a, pair.a), 1e-5 * largest + 1e-9) << path;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Family,
                         ::testing::Values("mistral", "qwen2", "qwen2_full", "qwen3", "gemma3",
                                           "gemma3_scalar", "phi3", "gpt2", "gpt_neox",
                                           "gpt_neox_serial", "opt", "opt_post_norm", "bloom"),
                         [](const auto& info) { return std::string(info.param); });

class GgufFamily : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufFamily, LogitsAndAdaptersEqualThoseOfTheFolder) {
  const Golden golden(GetParam());
  const auto model = load_gguf(GetParam());
  const std::vector<float> wanted = golden.floats("logits");
  EXPECT_LE(max_difference(all_logits(*model, golden.ids("tokens")), wanted), tolerance(wanted));
  const auto adapter = LoraAdapter::load(family_folder(GetParam()) + "/lora", *model);
  const std::vector<float> tuned = golden.floats("lora");
  EXPECT_LE(max_difference(all_logits(*model, golden.ids("tokens"), adapter.get()), tuned),
            tolerance(tuned));
}

// What config.json of the folder says and what is made of the GGUF file load the same model.
TEST_P(GgufFamily, ConfigMadeOfGgufComputesTheSame) {
  const auto gguf = GgufFile::open(family_folder(GetParam()) + "/model.gguf");
  const Json config = Json::parse(find_causal_lm_family(*gguf).config_from_gguf(*gguf).dump());
  const auto tensors = SafetensorsFile::open(family_folder(GetParam()));
  CausalLmSource source;
  source.tensors = tensors.get();
  source.config = &config;
  source.description = "config.json";
  const auto model =
      find_causal_lm_family(config, "config.json").make(source, kernels::Precision::kExact);
  const Golden golden(GetParam());
  const std::vector<float> wanted = golden.floats("logits");
  EXPECT_LE(max_difference(all_logits(*model, golden.ids("tokens")), wanted), tolerance(wanted));
}

INSTANTIATE_TEST_SUITE_P(Families, GgufFamily,
                         ::testing::Values("qwen2_full", "qwen3", "gemma3", "phi3", "gpt2",
                                           "gpt_neox", "gpt_neox_serial", "bloom"),
                         [](const auto& info) { return std::string(info.param); });

// A configuration of `family` with a key changed; loading fails before any tensor is read.
std::string refusal(const std::string& family, const std::string& key, const Json& value) {
  Json config = read_json_file(family_folder(family) + "/config.json");
  config[key] = value;
  const auto tensors = SafetensorsFile::open(family_folder(family));
  CausalLmSource source;
  source.tensors = tensors.get();
  source.config = &config;
  source.description = "config.json";
  try {
    find_causal_lm_family(config, "config.json").make(source, kernels::Precision::kExact);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(FamilyConfig, WhatCannotBeComputedIsRefusedByName) {
  const Json longrope = {{"rope_type", "longrope"}, {"rope_theta", 10000.0}};
  EXPECT_THAT(refusal("phi3", "rope_parameters", longrope),
              HasSubstr("rope scaling of type 'longrope' is not supported"));
  EXPECT_THAT(refusal("gemma3", "final_logit_softcapping", 30.0),
              HasSubstr("'final_logit_softcapping' is not supported"));
  EXPECT_THAT(refusal("gemma3", "layer_types", Json::array({"full_attention"})),
              HasSubstr("'layer_types' has 1 elements for 6 layers"));
  EXPECT_THAT(refusal("gpt2", "activation_function", "silu"), HasSubstr("'silu', only gelu"));
  EXPECT_THAT(refusal("gpt2", "scale_attn_by_inverse_layer_idx", true),
              HasSubstr("scale_attn_by_inverse_layer_idx true"));
  EXPECT_THAT(refusal("gpt2", "n_head", 5), HasSubstr("cannot be cut into 5 attention heads"));
  EXPECT_THAT(refusal("bloom", "apply_residual_connection_post_layernorm", true),
              HasSubstr("only false is supported"));
  EXPECT_THAT(refusal("gpt_neox", "rope_parameters", Json{{"partial_rotary_factor", 0.1}}),
              HasSubstr("0 rotary values of a head"));
  EXPECT_THAT(refusal("qwen2", "num_key_value_heads", 3), HasSubstr("cannot share 3"));
}

}  // namespace
}  // namespace quarry
