#include <algorithm>
#include <cstring>
#include <utility>

#include "data/core/error.h"
#include "data/text/gguf_pre_tokenizer.h"
#include "data/text/pipeline_tokenizer.h"
#include "data/text/sentencepiece_tokenizer.h"
#include "data/text/tokenizer.h"

namespace quarry {
namespace {

constexpr char kSource[] = "tokenizer in the GGUF file";

// tokenizer.ggml.token_type
constexpr int32_t kNormalToken = 1;
constexpr int32_t kUnknownToken = 2;
constexpr int32_t kControlToken = 3;
constexpr int32_t kUserDefinedToken = 4;

int32_t type_of(const GgufTokenizerData& data, size_t id) {
  return id < data.token_types.size() ? data.token_types[id] : kNormalToken;
}

Vocabulary make_vocabulary(const std::vector<std::string>& tokens) {
  std::vector<std::pair<std::string, int64_t>> entries;
  entries.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    entries.emplace_back(tokens[id], static_cast<int64_t>(id));
  }
  return Vocabulary(std::move(entries), kSource);
}

std::vector<AddedToken> find_added_tokens(const GgufTokenizerData& data) {
  std::vector<AddedToken> added;
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    const int32_t type = type_of(data, id);
    if (type != kControlToken && type != kUserDefinedToken && type != kUnknownToken) continue;
    AddedToken token;
    token.content = data.tokens[id];
    token.id = static_cast<int32_t>(id);
    token.special = type != kUserDefinedToken;
    added.push_back(std::move(token));
  }
  return added;
}

void add_frame(const GgufTokenizerData& data, TokenizerParts& parts) {
  if (data.add_bos && data.bos_id >= 0) parts.prefix_ids.push_back(data.bos_id);
  if (data.add_eos && data.eos_id >= 0) parts.suffix_ids.push_back(data.eos_id);
}

std::unique_ptr<Tokenizer> make_bpe_tokenizer(const GgufTokenizerData& data) {
  const GgufPreTokenizer family = find_gguf_pre_tokenizer(data.pre);
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(data.merges.size());
  for (const std::string& merge : data.merges) {
    // The first byte may be the space of a token that begins with one only in byte-level form,
    // where a space is never literal: the first space parts the pair.
    const size_t space = merge.find(' ');
    QUARRY_CHECK(space != std::string::npos && space > 0, ErrorCode::kCorruptData, kSource,
                 ": merge \"", merge, "\" is not \"left right\"");
    merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  BpeOptions bpe;
  bpe.ignore_merges = family.ignore_merges;
  TokenizerParts parts;
  parts.added_tokens = find_added_tokens(data);
  if (family.nfc) parts.normalizer = make_nfc_normalizer();
  parts.pre_tokenizer = make_byte_level_pre_tokenizer(family.options);
  parts.model = make_bpe_model(make_vocabulary(data.tokens), merges, bpe, kSource);
  parts.decoder = make_byte_level_decoder();
  add_frame(data, parts);
  return make_pipeline_tokenizer(std::move(parts));
}

// GGUF writes WordPiece with U+2581 before words and nothing before continuations.
std::unique_ptr<Tokenizer> make_bert_tokenizer(const GgufTokenizerData& data) {
  static constexpr char kWordMark[] = "\xE2\x96\x81";
  std::vector<std::string> tokens = data.tokens;
  const bool marked = std::any_of(tokens.begin(), tokens.end(), [](const std::string& token) {
    return token.compare(0, 3, kWordMark) == 0;
  });
  for (size_t id = 0; marked && id < tokens.size(); ++id) {
    if (type_of(data, id) != kNormalToken) continue;
    if (tokens[id].compare(0, 3, kWordMark) == 0) {
      tokens[id].erase(0, 3);
    } else {
      tokens[id].insert(0, "##");
    }
  }
  TokenizerParts parts;
  parts.added_tokens = find_added_tokens(data);
  parts.normalizer = make_bert_normalizer(BertNormalizerOptions());
  parts.pre_tokenizer = make_bert_pre_tokenizer();
  parts.model = make_word_piece_model(make_vocabulary(tokens), WordPieceOptions());
  parts.decoder = make_word_piece_decoder("##", true);
  const Vocabulary& vocabulary = parts.model->vocabulary();
  const int32_t cls_id = data.bos_id >= 0 ? data.bos_id : vocabulary.find("[CLS]");
  const int32_t sep_id = vocabulary.find("[SEP]") >= 0 ? vocabulary.find("[SEP]") : data.eos_id;
  if (cls_id >= 0) parts.prefix_ids.push_back(cls_id);
  if (sep_id >= 0) parts.suffix_ids.push_back(sep_id);
  return make_pipeline_tokenizer(std::move(parts));
}

// --- A sentencepiece ModelProto from GGUF's arrays (sentencepiece_model.proto) ---

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7F) | 0x80);
  out += static_cast<char>(value);
}

void put_int(std::string& out, int field, int64_t value) {
  put_varint(out, static_cast<uint64_t>(field) << 3);
  put_varint(out, static_cast<uint64_t>(value));
}

void put_bytes(std::string& out, int field, const std::string& bytes) {
  put_varint(out, (static_cast<uint64_t>(field) << 3) | 2);
  put_varint(out, bytes.size());
  out += bytes;
}

void put_float(std::string& out, int field, float value) {
  put_varint(out, (static_cast<uint64_t>(field) << 3) | 5);
  char bytes[4];
  std::memcpy(bytes, &value, 4);
  out.append(bytes, 4);
}

std::unique_ptr<Tokenizer> make_llama_tokenizer(const GgufTokenizerData& data) {
  SentencePieceOptions options;
  if (data.add_bos) options.bos_id = data.bos_id;
  if (data.add_eos) options.eos_id = data.eos_id;
  return make_sentencepiece_tokenizer(gguf_sentencepiece_model(data), options, kSource);
}

}  // namespace

GgufPreTokenizer find_gguf_pre_tokenizer(const std::string& pre) {
  const auto is_one_of = [&pre](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* name) { return pre == name; });
  };
  GgufPreTokenizer family;
  if (is_one_of({"gpt-2", "gpt2", "phi-2", "mpt", "olmo", "default", ""})) {
    family.options.pattern = kGpt2Pattern;
  } else if (is_one_of({"smollm", "starcoder", "refact", "command-r"})) {
    family.options.pattern = kGpt2Pattern;
    family.options.single_digits = true;
  } else if (is_one_of({"llama-bpe", "llama3", "llama-v3"})) {
    family.options.pattern = kLlama3Pattern;
    family.ignore_merges = true;
  } else if (is_one_of({"qwen2", "deepseek-r1-qwen"})) {
    family.options.pattern = kQwen2Pattern;
    family.nfc = true;
  } else if (pre == "bloom") {
    family.options.pattern = kBloomPattern;
  } else {
    throw_error(ErrorCode::kInvalidArgument, kSource, ": tokenizer.ggml.pre \"", pre,
                "\" is not supported; known: gpt-2, phi-2, mpt, olmo, default, smollm, starcoder, "
                "refact, command-r, llama-bpe, qwen2, deepseek-r1-qwen, bloom");
  }
  return family;
}

std::string gguf_sentencepiece_model(const GgufTokenizerData& data) {
  QUARRY_CHECK(data.scores.size() == data.tokens.size(), ErrorCode::kCorruptData, kSource, ": ",
               data.scores.size(), " scores for ", data.tokens.size(), " tokens");
  constexpr int32_t kBpeModel = 2;
  constexpr int32_t kByteToken = 6;
  std::string proto;
  bool byte_fallback = false;
  int32_t unknown_id = data.unknown_id;
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    // Some converters mark <unk> as a control token; its id says what it is.
    const bool is_unknown = static_cast<int64_t>(id) == data.unknown_id;
    const int32_t type = is_unknown ? kUnknownToken : type_of(data, id);
    std::string piece;
    put_bytes(piece, 1, data.tokens[id]);
    put_float(piece, 2, data.scores[id]);
    put_int(piece, 3, type);
    put_bytes(proto, 1, piece);
    byte_fallback = byte_fallback || type == kByteToken;
    if (type == kUnknownToken) unknown_id = static_cast<int32_t>(id);
  }
  std::string trainer;
  put_int(trainer, 3, kBpeModel);
  put_int(trainer, 35, byte_fallback ? 1 : 0);
  put_int(trainer, 40, unknown_id);
  put_bytes(proto, 2, trainer);
  std::string normalizer;
  put_bytes(normalizer, 1, "identity");
  put_int(normalizer, 3, data.add_space_prefix ? 1 : 0);
  put_int(normalizer, 4, 0);  // keep repeated spaces
  put_int(normalizer, 5, 1);  // spaces become U+2581
  put_bytes(proto, 3, normalizer);
  return proto;
}

std::unique_ptr<Tokenizer> make_gguf_tokenizer(const GgufTokenizerData& data) {
  QUARRY_CHECK(!data.tokens.empty(), ErrorCode::kCorruptData, kSource, ": holds no tokens");
  QUARRY_CHECK(data.token_types.empty() || data.token_types.size() == data.tokens.size(),
               ErrorCode::kCorruptData, kSource, ": ", data.token_types.size(), " token types for ",
               data.tokens.size(), " tokens");
  const auto in_vocabulary = [&data](int32_t id) {
    return id >= -1 && id < static_cast<int64_t>(data.tokens.size());
  };
  QUARRY_CHECK(
      in_vocabulary(data.bos_id) && in_vocabulary(data.eos_id) && in_vocabulary(data.unknown_id),
      ErrorCode::kCorruptData, kSource, ": bos ", data.bos_id, ", eos ", data.eos_id,
      " or unknown id ", data.unknown_id, " is outside its ", data.tokens.size(), " tokens");
  if (data.model == "gpt2") return make_bpe_tokenizer(data);
  if (data.model == "llama") return make_llama_tokenizer(data);
  if (data.model == "bert") return make_bert_tokenizer(data);
  throw_error(ErrorCode::kInvalidArgument, kSource, ": tokenizer.ggml.model \"", data.model,
              "\" is not supported; known: gpt2, llama, bert");
}

}  // namespace quarry
