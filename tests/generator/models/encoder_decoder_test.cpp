// Every encoder-decoder family against what transformers and PEFT compute with
// tests/golden/encoder_decoders.
#include "generator/models/encoder_decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "generator/models/folder_text.h"
#include "generator/nn/lora_training.h"
#include "generator/nn/relative_bias.h"
#include "generator/weights/safetensors_file.h"
#include "tests/generator/models/model_test_util.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using testing_util::logits_in_pieces;
using testing_util::Sequence;

constexpr size_t kVocab = 64;

std::string golden_folder(const std::string& name) {
  return std::string(QUARRY_SOURCE_DIR) + "/tests/golden/encoder_decoders/" + name;
}

std::unique_ptr<CausalLm> make_model(const std::string& name, const Json& config,
                                     kernels::Precision precision, LoadIn load_in = LoadIn::kAsIs) {
  const auto tensors = SafetensorsFile::open(golden_folder(name));
  CausalLmSource source;
  source.tensors = tensors.get();
  source.config = &config;
  source.description = "config.json";
  source.weights.load_in = load_in;
  return find_causal_lm_family(config, source.description).make(source, precision);
}

std::unique_ptr<CausalLm> load_model(const std::string& name, kernels::Precision precision,
                                     LoadIn load_in = LoadIn::kAsIs) {
  return make_model(name, read_folder_config(golden_folder(name)), precision, load_in);
}

std::unique_ptr<LoraAdapter> load_lora(const std::string& name, const CausalLm& model) {
  return LoraAdapter::load(golden_folder(name) + "/lora", model);
}

struct Golden {
  explicit Golden(const std::string& name)
      : file(SafetensorsFile::open(golden_folder(name) + "/golden.safetensors")) {}

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
  // Row `row` of a matrix of ids.
  std::vector<int32_t> ids(const std::string& name, int64_t row) const {
    const std::vector<int32_t> all = ids(name);
    const int64_t width = file->get(name).shape[1];
    return {all.begin() + row * width, all.begin() + (row + 1) * width};
  }
  std::unique_ptr<SafetensorsFile> file;
};

// A text of the decoder over a source that has been read.
Sequence read_source(const CausalLm& model, const std::vector<int32_t>& source,
                     std::vector<int32_t> tokens, const LoraAdapter* adapter = nullptr) {
  Sequence sequence(model, std::move(tokens), adapter);
  model.encode(source, adapter, *sequence.cache);
  return sequence;
}

std::vector<float> all_logits(const CausalLm& model, const std::vector<int32_t>& source,
                              const std::vector<int32_t>& tokens,
                              const LoraAdapter* adapter = nullptr) {
  const Sequence sequence = read_source(model, source, tokens, adapter);
  return model.forward({sequence.chunk(static_cast<int64_t>(tokens.size()))});
}

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0.0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    worst = std::max(worst, std::fabs(double{a[i]} - double{b[i]}));
  }
  return worst;
}

double largest(const std::vector<float>& values) {
  double most = 1.0;
  for (const float value : values) most = std::max(most, std::fabs(double{value}));
  return most;
}

class EncoderDecoderFamily : public ::testing::TestWithParam<const char*> {};

TEST_P(EncoderDecoderFamily, LogitsEqualTransformers) {
  const Golden golden(GetParam());
  const auto model = load_model(GetParam(), kernels::Precision::kExact);
  const std::vector<float> found = all_logits(*model, golden.ids("source"), golden.ids("tokens"));
  const std::vector<float> wanted = golden.floats("logits");
  EXPECT_LE(max_difference(found, wanted), 1e-5 * largest(wanted));
}

TEST_P(EncoderDecoderFamily, AdaptersEqualPeft) {
  const Golden golden(GetParam());
  const auto model = load_model(GetParam(), kernels::Precision::kExact);
  const auto adapter = load_lora(GetParam(), *model);
  const std::vector<float> found =
      all_logits(*model, golden.ids("source"), golden.ids("tokens"), adapter.get());
  const std::vector<float> wanted = golden.floats("lora");
  EXPECT_LE(max_difference(found, wanted), 1e-5 * largest(wanted));
  EXPECT_GT(max_difference(found, golden.floats("logits")), 0.1);
}

// Pieces of a text, other texts beside it, other sources and other adapters.
TEST_P(EncoderDecoderFamily, CompanyAndPiecesDoNotChangeLogits) {
  const auto model = load_model(GetParam(), kernels::Precision::kFast);
  const auto adapter = load_lora(GetParam(), *model);
  const LoraAdapter* adapters[] = {nullptr, adapter.get(), nullptr};
  const size_t source_sizes[] = {1, 30, 7};
  std::vector<std::vector<int32_t>> sources(3);
  std::vector<std::vector<int32_t>> tokens(3);
  std::vector<Sequence> sequences;
  for (size_t s = 0; s < 3; ++s) {
    for (size_t i = 0; i < source_sizes[s]; ++i) {
      sources[s].push_back(static_cast<int32_t>((s * 11 + i * 5 + 4) % kVocab));
    }
    for (size_t i = 0; i < 18; ++i) {
      tokens[s].push_back(static_cast<int32_t>((s * 17 + i * i * 5 + 3) % kVocab));
    }
    sequences.push_back(read_source(*model, sources[s], tokens[s], adapters[s]));
  }
  const std::vector<std::vector<float>> found =
      logits_in_pieces(*model, sequences, {{1, 9, 8}, {10, 1, 7}, {5, 5, 8}});
  for (size_t s = 0; s < 3; ++s) {
    EXPECT_EQ(found[s], all_logits(*model, sources[s], tokens[s], adapters[s])) << s;
  }
}

TEST_P(EncoderDecoderFamily, QuantizedLoadsStayNear) {
  const Golden golden(GetParam());
  const std::vector<float> exact = golden.floats("logits");
  for (const LoadIn load_in : {LoadIn::kNF4, LoadIn::kInt8}) {
    const auto model = load_model(GetParam(), kernels::Precision::kFast, load_in);
    const std::vector<float> found = all_logits(*model, golden.ids("source"), golden.ids("tokens"));
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

// Trees of the golden labels, the mean over all targets.
std::vector<TokenTree> golden_batch(const Golden& golden, int32_t start) {
  std::vector<TokenTree> batch;
  size_t num_targets = 0;
  for (int64_t row = 0; row < golden.file->get("labels").shape[0]; ++row) {
    TokenTree tree;
    tree.source = golden.ids("sources", row);
    tree.tokens = {start};
    for (const int32_t label : golden.ids("labels", row)) {
      if (label < 0) break;
      tree.targets.push_back({static_cast<int64_t>(tree.tokens.size()) - 1, label, 1.0f});
      tree.tokens.push_back(label);
    }
    tree.tokens.pop_back();
    for (size_t i = 0; i < tree.tokens.size(); ++i) {
      tree.positions.push_back(static_cast<int32_t>(i));
    }
    tree.segments = {{0, static_cast<int64_t>(tree.tokens.size()), -1}};
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

TEST_P(EncoderDecoderFamily, LossAndGradientsEqualPeft) {
  const Golden golden(GetParam());
  const auto model = load_model(GetParam(), kernels::Precision::kExact);
  const auto adapter = load_lora(GetParam(), *model);
  const std::vector<TokenTree> batch = golden_batch(golden, model->config().decoder_prompt.front());
  for (const bool checkpoint_layers : {false, true}) {
    LoraGradients gradients(*adapter);
    GradientOptions options;
    options.compute = GradientOptions::Compute::kFloat32;
    options.checkpoint_layers = checkpoint_layers;
    double loss = 0.0;
    for (const TokenTree& tree : batch) {
      const std::vector<float> losses =
          model->accumulate_gradients(tree, *adapter, options, gradients);
      EXPECT_LE(max_difference(losses, model->target_losses(tree, adapter.get())), 1e-5);
      for (const float value : losses) loss += double{value} * double{tree.targets[0].weight};
    }
    EXPECT_NEAR(loss, golden.floats("loss")[0], 1e-5 * std::max(1.0, loss));
    size_t compared = 0;
    for (const auto& [path, pair] : gradients.pairs()) {
      for (const char* half : {".lora_A.weight", ".lora_B.weight"}) {
        const std::vector<float> wanted = golden.floats("grad.base_model.model." + path + half);
        EXPECT_LE(max_difference(half[6] == 'A' ? pair.a : pair.b, wanted), 1e-5 * largest(wanted))
            << path << half;
        ++compared;
      }
    }
    EXPECT_EQ(compared, 2 * model->linear_slots().size());
  }
}

// A step against the gradient of an encoder's and of a decoder's matrix changes the loss as the
// gradient says.
TEST_P(EncoderDecoderFamily, GradientsEqualFiniteDifferences) {
  const Golden golden(GetParam());
  const auto model = load_model(GetParam(), kernels::Precision::kExact);
  const auto adapter = load_lora(GetParam(), *model);
  const TokenTree tree = golden_batch(golden, model->config().decoder_prompt.front()).front();
  GradientOptions options;
  options.compute = GradientOptions::Compute::kFloat32;
  LoraGradients gradients(*adapter);
  model->accumulate_gradients(tree, *adapter, options, gradients);
  const auto loss = [&] {
    double total = 0.0;
    for (const float value : model->target_losses(tree, adapter.get())) {
      total += double{value} * double{tree.targets[0].weight};
    }
    return total;
  };
  for (const size_t slot : {size_t{0}, model->linear_slots().size() - 1}) {
    const std::string& path = model->linear_slots()[slot].path;
    const std::vector<float>& gradient = gradients.at(path).b;
    double length = 0.0;
    for (const float value : gradient) length += double{value} * value;
    length = std::sqrt(length);
    LoraWeights& pair = adapter->mutable_weights().at(path);
    const std::vector<float> before = pair.b;
    double change = 0.0;
    constexpr double kStep = 5e-4;
    for (const double sign : {1.0, -1.0}) {
      for (size_t i = 0; i < before.size(); ++i) {
        pair.b[i] = static_cast<float>(before[i] + sign * kStep * gradient[i] / length);
      }
      pair.pack();
      change += sign * loss();
    }
    pair.b = before;
    pair.pack();
    // Losses of this size are rounded by 2e-7.
    EXPECT_NEAR(change / (2.0 * kStep), length, 5e-3 * length + 2e-7 / kStep) << path;
  }
}

// Texts of one source that share their beginning learn what each would alone.
TEST_P(EncoderDecoderFamily, SharedBeginningsChangeNothing) {
  const auto model = load_model(GetParam(), kernels::Precision::kExact);
  const auto adapter = load_lora(GetParam(), *model);
  TokenTree tree;
  tree.source = {9, 8, 7, 6, 5, 4};
  tree.segments = {{0, 9, -1}, {9, 14, 0}, {14, 19, 0}};
  std::vector<TokenTree> alone(2);
  const auto token = [](int32_t i) { return (i * i * 7 + 11) % static_cast<int32_t>(kVocab); };
  for (int32_t i = 0; i < 19; ++i) {
    tree.tokens.push_back(token(i));
    tree.positions.push_back(i < 14 ? i : i - 5);
  }
  for (size_t path = 0; path < 2; ++path) {
    alone[path].source = tree.source;
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
  std::vector<float> wanted;
  for (const TokenTree& path : alone) {
    const std::vector<float> part = model->target_losses(path, adapter.get());
    wanted.insert(wanted.end(), part.begin(), part.end());
  }
  EXPECT_EQ(model->target_losses(tree, adapter.get()), wanted);
}

TEST_P(EncoderDecoderFamily, WhatTheEncoderCannotReadIsRefused) {
  const auto model = load_model(GetParam(), kernels::Precision::kExact);
  const auto message = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const auto encode = [&](const std::vector<int32_t>& source) {
    return message([&] { model->encode(source, nullptr, *model->make_cache()); });
  };
  EXPECT_THAT(encode({}), HasSubstr("a source of 0 tokens"));
  EXPECT_THAT(encode({64}), HasSubstr("token 64 is outside the vocabulary of 64"));
  EXPECT_THAT(encode(std::vector<int32_t>(5000, 3)), HasSubstr("a source of 5000 tokens"));
  EXPECT_THAT(message([&] { testing_util::all_logits(*model, {0}); }),
              HasSubstr("before its encoder has read a source"));
  TokenTree tree = golden_batch(Golden(GetParam()), 0).front();
  tree.source.clear();
  EXPECT_THAT(message([&] { model->target_losses(tree, nullptr); }),
              HasSubstr("a source of 0 tokens"));
}

INSTANTIATE_TEST_SUITE_P(Families, EncoderDecoderFamily,
                         ::testing::Values("t5", "t5_gated", "mt5", "bart"),
                         [](const auto& info) { return std::string(info.param); });

TEST(RelativeBucket, EqualsTransformers) {
  const Json golden = read_json_file(golden_folder("buckets.json"));
  for (const bool bidirectional : {false, true}) {
    nn::RelativeBuckets buckets;
    buckets.bidirectional = bidirectional;
    std::vector<int64_t> found;
    for (int64_t distance = -140; distance <= 140; ++distance) {
      found.push_back(nn::relative_bucket(buckets, distance));
    }
    EXPECT_EQ(found, golden[bidirectional].get<std::vector<int64_t>>());
  }
}

// PEFT's LoraConfig(r=4, target_modules=["q", "v"]) over FLAN-T5 base.
TEST(EncoderDecoderConfig, FlanT5BaseHas442368ParametersOfRank4InQAndV) {
  const Json config = {{"architectures", {"T5ForConditionalGeneration"}},
                       {"model_type", "t5"},
                       {"d_model", 768},
                       {"d_kv", 64},
                       {"d_ff", 2048},
                       {"num_layers", 12},
                       {"num_heads", 12},
                       {"vocab_size", 32128},
                       {"feed_forward_proj", "gated-gelu"},
                       {"tie_word_embeddings", false}};
  const auto tensors = SafetensorsFile::open(golden_folder("t5_gated"));
  CausalLmSource source;
  source.tensors = tensors.get();
  source.config = &config;
  source.description = "config.json";
  const ModelLayout layout = find_causal_lm_family(config, "config.json").layout(source);
  int64_t trainable = 0;
  for (const ModelLayout::Linear& linear : layout.linears) {
    const std::string& path = linear.slot.path;
    const std::string name = path.substr(path.rfind('.') + 1);
    if (name != "q" && name != "v") continue;
    trainable += 4 * (linear.slot.in_features + linear.slot.out_features);
  }
  EXPECT_EQ(trainable, 442368);
  EXPECT_EQ(layout.linears.front().slot.path, "encoder.block.0.layer.0.SelfAttention.q");
  EXPECT_EQ(layout.linears.back().slot.path, "decoder.block.11.layer.2.DenseReluDense.wo");
}

// The message with which a configuration of `family` with a key changed is refused.
std::string refusal(const std::string& family, const std::string& key, const Json& value) {
  Json config = read_folder_config(golden_folder(family));
  config[key] = value;
  try {
    make_model(family, config, kernels::Precision::kExact);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(EncoderDecoderConfig, WhatCannotBeComputedIsRefusedByName) {
  EXPECT_THAT(refusal("t5", "feed_forward_proj", "gated-relu"),
              HasSubstr("'feed_forward_proj' is 'gated-relu', only relu, gelu"));
  EXPECT_THAT(refusal("t5", "relative_attention_num_buckets", 7),
              HasSubstr("7 'relative_attention_num_buckets'"));
  EXPECT_THAT(refusal("t5", "decoder_start_token_id", 64),
              HasSubstr("the decoder begins with token 64, outside the vocabulary of 64"));
  EXPECT_THAT(refusal("mt5", "decoder_start_token_id", -1),
              HasSubstr("'decoder_start_token_id' is -1, wanted a token's id"));
  EXPECT_THAT(refusal("bart", "normalize_before", true),
              HasSubstr("'normalize_before' is true, only false is supported"));
  EXPECT_THAT(refusal("bart", "activation_function", "silu"), HasSubstr("'silu', only gelu"));
  EXPECT_THAT(refusal("bart", "encoder_attention_heads", 3),
              HasSubstr("'d_model' 32 cannot be cut into 3 'encoder_attention_heads'"));
  EXPECT_THAT(refusal("bart", "encoder_layers", 2147483647), HasSubstr("2147483647 layers"));
  EXPECT_THAT(refusal("bart", "encoder_attention_heads", 32), HasSubstr("head size 1 "));
  EXPECT_THAT(refusal("bart", "max_position_embeddings", 1), HasSubstr("a context of 1 tokens"));
}

}  // namespace
}  // namespace quarry
