#include "tests/support/tiny_llama_gguf.h"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/gguf_builder.h"
#include "tests/support/random_values.h"

namespace quarry {
namespace {

constexpr int64_t kHidden = 64;
constexpr int64_t kHeads = 4;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kHeadDim = kHidden / kHeads;
constexpr int64_t kIntermediate = 128;
constexpr int64_t kLayers = 2;

constexpr const char* kChatTemplate =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}";

// UTF-8 of a code point below U+0800.
std::string utf8(int code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 63))};
}

// GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 and up.
std::vector<std::string> byte_alphabet() {
  const auto printable = [](int byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte != 0xad);
  };
  std::vector<std::string> alphabet;
  for (int byte = 0; byte < 256; ++byte) {
    if (printable(byte)) alphabet.push_back(utf8(byte));
  }
  for (int next = 0x100; next < 0x100 + 68; ++next) alphabet.push_back(utf8(next));
  return alphabet;
}

void add_tokenizer(test::GgufBuilder* file) {
  const std::string space = utf8(0x120);
  const std::vector<std::pair<std::string, std::string>> merges = {
      {space, "t"},  {"h", "e"},          {space, "a"},       {"i", "n"},    {space + "t", "he"},
      {"e", "r"},    {"o", "n"},          {space, "s"},       {"r", "e"},    {"a", "t"},
      {"e", "n"},    {"o", "r"},          {space, "w"},       {space, "o"},  {"i", "s"},
      {"a", "n"},    {space, "c"},        {"e", "s"},         {space, "b"},  {"i", "t"},
      {space, "p"},  {space + "o", "f"},  {space + "a", "n"}, {"e", "d"},    {"in", "g"},
      {space, "f"},  {space, "m"},        {"o", "u"},         {"a", "l"},    {"a", "r"},
      {space, "in"}, {space, "d"},        {"l", "l"},         {space, "h"},  {"a", "s"},
      {"i", "c"},    {space + "an", "d"}, {space + "t", "o"}, {space, "is"}, {"T", "he"}};
  std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  std::vector<int32_t> types(tokens.size(), 3);
  for (const std::string& symbol : byte_alphabet()) tokens.push_back(symbol);
  std::vector<std::string> merge_lines;
  for (const auto& [left, right] : merges) {
    merge_lines.push_back(left + " " + right);
    tokens.push_back(left + right);
  }
  types.resize(tokens.size(), 1);

  file->set_string("tokenizer.ggml.model", "gpt2");
  file->set_string("tokenizer.ggml.pre", "smollm");
  file->set_strings("tokenizer.ggml.tokens", tokens);
  file->set_int32s("tokenizer.ggml.token_type", types);
  file->set_strings("tokenizer.ggml.merges", merge_lines);
  file->set_uint32("tokenizer.ggml.bos_token_id", 1);
  file->set_uint32("tokenizer.ggml.eos_token_id", 2);
  file->set_uint32("tokenizer.ggml.unknown_token_id", 0);
  file->set_uint32("tokenizer.ggml.padding_token_id", 2);
  file->set_bool("tokenizer.ggml.add_bos_token", false);
  file->set_bool("tokenizer.ggml.add_space_prefix", false);
  file->set_string("tokenizer.chat_template", kChatTemplate);
}

// Rows of special tokens and of lone non-ASCII bytes are small, so the tied head seldom picks them
// and generated text is readable ASCII.
std::vector<float> make_embeddings(int64_t vocab_size, test::RandomValues* random) {
  constexpr int64_t kFirstAscii = 3;
  constexpr int64_t kFirstOther = kFirstAscii + 94;
  constexpr int64_t kFirstMerge = kFirstAscii + 256;
  std::vector<float> values = random->normal(vocab_size * kHidden, 0.0, 0.1);
  for (int64_t i = 0; i < vocab_size * kHidden; ++i) {
    const int64_t token = i / kHidden;
    if (token < kFirstAscii || (token >= kFirstOther && token < kFirstMerge)) {
      values[static_cast<size_t>(i)] *= 0.05f;
    }
  }
  return values;
}

}  // namespace

std::filesystem::path write_tiny_llama_gguf(const std::filesystem::path& folder, uint64_t seed) {
  constexpr int64_t kVocab = 3 + 256 + 40;
  test::GgufBuilder file;
  file.set_string("general.architecture", "llama");
  file.set_string("general.type", "model");
  file.set_string("general.name", "Tiny Llama for tests");
  file.set_uint32("llama.block_count", kLayers);
  file.set_uint32("llama.context_length", 512);
  file.set_uint32("llama.embedding_length", kHidden);
  file.set_uint32("llama.feed_forward_length", kIntermediate);
  file.set_uint32("llama.attention.head_count", kHeads);
  file.set_uint32("llama.attention.head_count_kv", kKvHeads);
  file.set_float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  file.set_float("llama.rope.freq_base", 10000.0f);
  file.set_uint32("llama.rope.dimension_count", kHeadDim);
  file.set_uint32("llama.vocab_size", kVocab);
  add_tokenizer(&file);

  test::RandomValues random(seed);
  const auto add_linear = [&](const std::string& name, int64_t out, int64_t in) {
    const double deviation = 1.0 / std::sqrt(static_cast<double>(in));
    file.add_tensor(name, WeightType::kQ4_1, {out, in}, random.normal(out * in, 0.0, deviation));
  };
  const auto add_norm = [&](const std::string& name) {
    file.add_tensor(name, WeightType::kF32, {kHidden}, random.normal(kHidden, 1.0, 0.1));
  };
  file.add_tensor("token_embd.weight", WeightType::kQ8_0, {kVocab, kHidden},
                  make_embeddings(kVocab, &random));
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    add_norm(prefix + "attn_norm.weight");
    add_linear(prefix + "attn_q.weight", kHeads * kHeadDim, kHidden);
    add_linear(prefix + "attn_k.weight", kKvHeads * kHeadDim, kHidden);
    add_linear(prefix + "attn_v.weight", kKvHeads * kHeadDim, kHidden);
    add_linear(prefix + "attn_output.weight", kHidden, kHeads * kHeadDim);
    add_norm(prefix + "ffn_norm.weight");
    add_linear(prefix + "ffn_gate.weight", kIntermediate, kHidden);
    add_linear(prefix + "ffn_up.weight", kIntermediate, kHidden);
    add_linear(prefix + "ffn_down.weight", kHidden, kIntermediate);
  }
  add_norm("output_norm.weight");

  std::filesystem::path path = folder / "tiny-llama.gguf";
  file.write(path);
  return path;
}

}  // namespace quarry
