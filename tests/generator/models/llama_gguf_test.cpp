#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <variant>

#include "data/core/error.h"
#include "data/core/json.h"
#include "generator/weights/safetensors_file.h"
#include "tests/generator/models/model_test_util.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using test::GgufBuilder;
using test::TemporaryFolder;
using ::testing::HasSubstr;
using testing_util::all_logits;
using testing_util::golden;

constexpr int64_t kHidden = 32;
constexpr int64_t kHeadDim = 8;

std::vector<float> values_of(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.num_elements()));
  dequantize(view.type, view.data, values.data(), view.num_elements());
  return values;
}

// What GGUF converters do to q and k: rows (p, j) of a head, p in 2 halves, become rows (j, p).
std::vector<float> interleave_rows(const std::vector<float>& rows) {
  std::vector<float> out(rows.size());
  const int64_t num_rows = static_cast<int64_t>(rows.size()) / kHidden;
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t head = row / kHeadDim * kHeadDim;
    const int64_t half = row % kHeadDim / (kHeadDim / 2);
    const int64_t pair = row % (kHeadDim / 2);
    std::copy_n(rows.begin() + row * kHidden, kHidden,
                out.begin() + (head + 2 * pair + half) * kHidden);
  }
  return out;
}

struct Configuration {
  std::map<std::string, std::string> texts = {{"general.architecture", "llama"}};
  std::map<std::string, uint32_t> numbers = {{"llama.block_count", 2},
                                             {"llama.context_length", 128},
                                             {"llama.embedding_length", kHidden},
                                             {"llama.feed_forward_length", 48},
                                             {"llama.attention.head_count", 4},
                                             {"llama.attention.head_count_kv", 2},
                                             {"llama.rope.dimension_count", kHeadDim}};
};

void add_configuration(const Configuration& configuration, GgufBuilder& file) {
  for (const auto& [key, value] : configuration.texts) file.set_string(key, value);
  for (const auto& [key, value] : configuration.numbers) file.set_uint32(key, value);
  file.set_float("llama.rope.freq_base", 10000.0f);
  file.set_float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

void add_tokenizer(GgufBuilder& file) {
  const Json json = read_json_file(golden("llama/tokenizer.json"));
  std::vector<std::string> tokens(288);
  for (const auto& [token, id] : json.at("model").at("vocab").items()) {
    tokens[id.get<size_t>()] = token;
  }
  std::vector<std::string> merges;
  for (const Json& pair : json.at("model").at("merges")) {
    merges.push_back(pair.at(0).get<std::string>() + " " + pair.at(1).get<std::string>());
  }
  std::vector<int32_t> types(288, 1);
  types[0] = types[1] = types[2] = 3;
  file.set_string("tokenizer.ggml.model", "gpt2");
  file.set_string("tokenizer.ggml.pre", "gpt-2");
  file.set_strings("tokenizer.ggml.tokens", tokens);
  file.set_int32s("tokenizer.ggml.token_type", types);
  file.set_strings("tokenizer.ggml.merges", merges);
  file.set_uint32("tokenizer.ggml.bos_token_id", 1);
  file.set_uint32("tokenizer.ggml.eos_token_id", 2);
}

void add_weights(GgufBuilder& file) {
  const auto source = SafetensorsFile::open(golden("llama"));
  const auto add = [&](const std::string& name, const std::string& hf_name, bool interleave) {
    const TensorView& view = source->get(hf_name);
    const std::vector<float> values = values_of(view);
    file.add_tensor(name, WeightType::kF32, view.shape,
                    interleave ? interleave_rows(values) : values);
  };
  add("token_embd.weight", "model.embed_tokens.weight", false);
  add("output_norm.weight", "model.norm.weight", false);
  const std::pair<const char*, const char*> parts[] = {
      {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
      {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
      {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
      {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"}};
  for (const std::string layer : {"0", "1"}) {
    for (const auto& [name, hf_name] : parts) {
      const std::string text = name;
      add("blk." + layer + "." + name + ".weight",
          "model.layers." + layer + "." + hf_name + ".weight",
          text == "attn_q" || text == "attn_k");
    }
  }
}

// The golden llama as a GGUF file.
std::string write_gguf(const TemporaryFolder& folder, const Configuration& configuration) {
  GgufBuilder file;
  add_configuration(configuration, file);
  add_tokenizer(file);
  add_weights(file);
  const std::string path = (folder.path() / "tiny.gguf").string();
  file.write(path);
  return path;
}

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0.0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    worst = std::max(worst, static_cast<double>(std::fabs(a[i] - b[i])));
  }
  return worst;
}

TEST(LlamaGguf, LogitsAndAdaptersEqualThoseOfTheFolder) {
  const TemporaryFolder folder;
  const LoadedGenerator loaded = load_generator(write_gguf(folder, {}), kernels::Precision::kExact);
  const auto expected = SafetensorsFile::open(golden("llama/golden.safetensors"));
  std::vector<int32_t> tokens;
  for (float id : values_of(expected->get("tokens"))) tokens.push_back(static_cast<int32_t>(id));
  EXPECT_LE(max_difference(all_logits(*loaded.model, tokens), values_of(expected->get("logits"))),
            2e-4);
  for (const std::string name : {"lora_all", "lora_qv"}) {
    const auto adapter = LoraAdapter::load(golden("llama/" + name), *loaded.model);
    EXPECT_LE(max_difference(all_logits(*loaded.model, tokens, adapter.get()),
                             values_of(expected->get(name))),
              4e-4)
        << name;
  }
}

TEST(LlamaGguf, BringsTokenizerAndStopTokens) {
  const TemporaryFolder folder;
  const LoadedGenerator loaded = load_generator(write_gguf(folder, {}), kernels::Precision::kFast);
  EXPECT_EQ(loaded.name, "tiny");
  EXPECT_EQ(loaded.stop_tokens, (std::vector<int32_t>{2, 0}));
  EXPECT_EQ(loaded.chat_template, nullptr);
  const auto ids = loaded.tokenizer->encode("The sea", Tokenizer::SpecialTokens::kNone);
  EXPECT_EQ(loaded.tokenizer->decode(ids), "The sea");
}

struct Refusal {
  const char* name;
  const char* key;
  std::variant<uint32_t, std::string> value;
  ErrorCode code;
  const char* message;
};

class LlamaGgufRefusal : public ::testing::TestWithParam<Refusal> {};

TEST_P(LlamaGgufRefusal, NamesWhatIsWrong) {
  const TemporaryFolder folder;
  Configuration configuration;
  if (const uint32_t* number = std::get_if<uint32_t>(&GetParam().value)) {
    configuration.numbers[GetParam().key] = *number;
  } else {
    configuration.texts[GetParam().key] = std::get<std::string>(GetParam().value);
  }
  const std::string path = write_gguf(folder, configuration);
  try {
    load_generator(path, kernels::Precision::kFast);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), GetParam().code) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
    EXPECT_THAT(error.what(), HasSubstr("tiny.gguf"));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Files, LlamaGgufRefusal,
    ::testing::Values(
        Refusal{"Family", "general.architecture", "mamba", ErrorCode::kInvalidArgument,
                "generator family 'mamba' is not supported (known: llama, qwen2, "},
        Refusal{"RopeScaling", "llama.rope.scaling.type", "yarn", ErrorCode::kInvalidArgument,
                "llama.rope.scaling.type 'yarn' is not supported"},
        Refusal{"Experts", "llama.expert_count", 8u, ErrorCode::kInvalidArgument,
                "'llama.expert_count' is 8, only 0 is supported"},
        Refusal{"Shape", "llama.feed_forward_length", 64u, ErrorCode::kCorruptData,
                "tensor 'blk.0.ffn_gate.weight' has shape [48, 32], the configuration asks for "
                "[64, 32]"},
        Refusal{"ChatTemplate", "tokenizer.chat_template", "{% oops %}",
                ErrorCode::kInvalidArgument, "tag \"oops\" is not supported"},
        Refusal{"Layers", "llama.block_count", 3u, ErrorCode::kCorruptData, "blk.2."},
        Refusal{"HugeLayers", "llama.block_count", 2000000000u, ErrorCode::kCorruptData,
                "2000000000 layers"},
        Refusal{"Heads", "llama.attention.head_count_kv", 3u, ErrorCode::kCorruptData,
                "4 attention heads cannot share 3 key/value heads"},
        Refusal{"ZeroHeads", "llama.attention.head_count", 0u, ErrorCode::kCorruptData,
                "'llama.attention.head_count' is 0"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace quarry
