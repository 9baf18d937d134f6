#include "data/text/hf_tokenizer_file.h"

#include "data/core/json.h"
#include "data/text/gguf_pre_tokenizer.h"

namespace quarry {
namespace {

// tokenizer.ggml.token_type
constexpr int32_t kUnknownToken = 2;
constexpr int32_t kControlToken = 3;
constexpr int32_t kUserDefinedToken = 4;

OrderedJson added_tokens(const GgufTokenizerData& data) {
  OrderedJson added = OrderedJson::array();
  for (size_t id = 0; id < data.token_types.size(); ++id) {
    const int32_t type = data.token_types[id];
    if (type != kControlToken && type != kUserDefinedToken && type != kUnknownToken) continue;
    added.push_back({{"id", id},
                     {"content", data.tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type != kUserDefinedToken}});
  }
  return added;
}

OrderedJson byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

OrderedJson pre_tokenizer(const ByteLevelPreTokenizerOptions& options) {
  // ByteLevel's own pattern is GPT-2's.
  const bool own_pattern = options.pattern == kGpt2Pattern;
  OrderedJson parts = OrderedJson::array();
  if (options.single_digits) parts.push_back({{"type", "Digits"}, {"individual_digits", true}});
  if (!own_pattern) {
    parts.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", options.pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  parts.push_back(byte_level(options.add_prefix_space, own_pattern));
  if (parts.size() == 1) return parts.front();
  return {{"type", "Sequence"}, {"pretokenizers", parts}};
}

OrderedJson special_token(const GgufTokenizerData& data, int32_t id) {
  return {{"SpecialToken", {{"id", data.tokens[static_cast<size_t>(id)]}, {"type_id", 0}}}};
}

// <bos> text <eos>, as far as the flags ask for them.
OrderedJson post_processor(const GgufTokenizerData& data) {
  OrderedJson single = OrderedJson::array();
  OrderedJson tokens = OrderedJson::object();
  const auto add = [&](bool wanted, int32_t id) {
    if (!wanted || id < 0) return;
    const std::string& text = data.tokens[static_cast<size_t>(id)];
    single.push_back(special_token(data, id));
    tokens[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
  };
  const OrderedJson text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  add(data.add_bos, data.bos_id);
  single.push_back(text);
  add(data.add_eos, data.eos_id);
  if (tokens.empty()) return byte_level(true, true);
  OrderedJson pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", tokens}};
}

std::string byte_level_bpe(const GgufTokenizerData& data) {
  const GgufPreTokenizer family = find_gguf_pre_tokenizer(data.pre);
  OrderedJson model = {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", family.ignore_merges}};
  // Appending does not look for the key, which an ordered object would do by walking it.
  OrderedJson::object_t vocabulary;
  vocabulary.reserve(data.tokens.size());
  for (size_t id = 0; id < data.tokens.size(); ++id) vocabulary.emplace_back(data.tokens[id], id);
  model["vocab"] = std::move(vocabulary);
  model["merges"] = data.merges;
  OrderedJson json = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  json["added_tokens"] = added_tokens(data);
  json["normalizer"] = nullptr;
  if (family.nfc) json["normalizer"] = {{"type", "NFC"}};
  json["pre_tokenizer"] = pre_tokenizer(family.options);
  json["post_processor"] = post_processor(data);
  json["decoder"] = byte_level(true, true);
  json["model"] = std::move(model);
  return dump_json(json) + "\n";
}

}  // namespace

TokenizerFile hf_tokenizer_file(const GgufTokenizerData& data) {
  if (data.model == "gpt2") return {"tokenizer.json", byte_level_bpe(data)};
  if (data.model == "llama") return {"tokenizer.model", gguf_sentencepiece_model(data)};
  throw_error(ErrorCode::kInvalidArgument, "tokenizer.ggml.model \"", data.model,
              "\" cannot be written for a Hugging Face folder (gpt2, llama)");
}

}  // namespace quarry
