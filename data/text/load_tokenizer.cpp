#include <algorithm>
#include <system_error>
#include <utility>

#include "data/core/json.h"
#include "data/core/mapped_file.h"
#include "data/text/component_json.h"
#include "data/text/pipeline_tokenizer.h"
#include "data/text/sentencepiece_tokenizer.h"
#include "data/text/tokenizer.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

std::string read_bytes(const fs::path& path) {
  const MappedFile file(path);
  return std::string(reinterpret_cast<const char*>(file.data()), file.size());
}

Json read_config(const fs::path& folder) {
  const fs::path path = folder / "tokenizer_config.json";
  return fs::exists(path) ? read_json_file(path) : Json::object();
}

std::vector<std::pair<std::string, int64_t>> read_vocabulary_lines(const fs::path& path) {
  std::vector<std::pair<std::string, int64_t>> entries;
  const std::string bytes = read_bytes(path);
  for (size_t begin = 0; begin < bytes.size();) {
    const size_t end = std::min(bytes.find('\n', begin), bytes.size());
    std::string line = bytes.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const auto id = static_cast<int64_t>(entries.size());
    entries.emplace_back(std::move(line), id);
    begin = end + 1;
  }
  QUARRY_CHECK(!entries.empty(), ErrorCode::kCorruptData, path.string(), ": holds no tokens");
  return entries;
}

std::string token_text(const Json& config, const char* field, const char* fallback,
                       const std::string& source) {
  const auto found = config.find(field);
  if (found == config.end() || found->is_null()) return fallback;
  if (found->is_object()) return require_field<std::string>(*found, "content", source);
  return require_field<std::string>(config, field, source);
}

// BERT from its vocab.txt, as transformers' BertTokenizer reads it.
std::unique_ptr<Tokenizer> load_word_piece(const fs::path& folder) {
  const std::string source = (folder / "vocab.txt").string();
  const Json config = read_config(folder);
  BertNormalizerOptions normalizer;
  normalizer.lowercase = field_or(config, "do_lower_case", true, source);
  normalizer.handle_chinese_chars = field_or(config, "tokenize_chinese_chars", true, source);
  normalizer.strip_accents = field_or(config, "strip_accents", normalizer.lowercase, source);
  WordPieceOptions word_piece;
  word_piece.unknown_token = token_text(config, "unk_token", "[UNK]", source);
  TokenizerParts parts;
  parts.normalizer = make_bert_normalizer(normalizer);
  parts.pre_tokenizer = make_bert_pre_tokenizer();
  parts.model = make_word_piece_model(
      Vocabulary(read_vocabulary_lines(folder / "vocab.txt"), source), word_piece);
  parts.decoder = make_word_piece_decoder(word_piece.continuing_prefix, true);
  const Vocabulary& vocabulary = parts.model->vocabulary();
  const auto special = [&](const char* field, const char* fallback) {
    AddedToken token;
    token.content = token_text(config, field, fallback, source);
    token.id = vocabulary.find(token.content);
    token.special = true;
    if (token.id >= 0) parts.added_tokens.push_back(token);
    return token.id;
  };
  special("pad_token", "[PAD]");
  special("unk_token", "[UNK]");
  special("mask_token", "[MASK]");
  const int32_t cls_id = special("cls_token", "[CLS]");
  const int32_t sep_id = special("sep_token", "[SEP]");
  QUARRY_CHECK(cls_id >= 0 && sep_id >= 0, ErrorCode::kCorruptData, source,
               ": the tokens [CLS] and [SEP] are not both in the vocabulary");
  parts.prefix_ids = {cls_id};
  parts.suffix_ids = {sep_id};
  parts.pair = bert_pair_template(cls_id, sep_id);
  return make_pipeline_tokenizer(std::move(parts));
}

// Families whose ids are shifted against their sentencepiece file, or that frame text otherwise.
bool is_remapped_family(const std::string& tokenizer_class) {
  for (const char* name : {"XLMRoberta", "Camembert", "MBart", "M2M100", "Nllb", "Albert", "XLNet",
                           "BigBird", "Reformer", "Speech", "Marian", "Pegasus", "Deberta"}) {
    if (tokenizer_class.rfind(name, 0) == 0) return true;
  }
  return false;
}

// `family`: the tokenizer class where tokenizer_config.json names none.
std::unique_ptr<Tokenizer> load_sentencepiece(const fs::path& path, std::string family) {
  const std::string source = path.string();
  const Json config = read_config(path.parent_path());
  family = field_or(config, "tokenizer_class", family, source);
  QUARRY_CHECK(!is_remapped_family(family), ErrorCode::kInvalidArgument, source,
               ": tokenizer class \"", family,
               "\" gives its sentencepiece model other ids; a tokenizer.json beside it is needed");
  const bool is_t5 = family.rfind("T5", 0) == 0;
  SentencePieceOptions options;
  const Json added = field_or<Json>(config, "added_tokens_decoder", Json::object(), source);
  for (const auto& [id, item] : added.items()) {
    AddedToken token;
    token.content = require_field<std::string>(item, "content", source);
    const bool numeric =
        !id.empty() && id.size() < 9 && id.find_first_not_of("0123456789") == std::string::npos;
    QUARRY_CHECK(numeric, ErrorCode::kCorruptData, source, ": added token \"", token.content,
                 "\" has the id \"", id, "\"");
    token.id = static_cast<int32_t>(std::stol(id));
    token.special = field_or(item, "special", false, source);
    token.lstrip = field_or(item, "lstrip", false, source);
    token.rstrip = field_or(item, "rstrip", false, source);
    token.single_word = field_or(item, "single_word", false, source);
    options.added_tokens.push_back(std::move(token));
  }
  const std::string bytes = read_bytes(path);
  const auto plain = make_sentencepiece_tokenizer(bytes, options, source);
  if (field_or(config, "add_bos_token", !is_t5, source)) {
    options.bos_id = plain->token_id(token_text(config, "bos_token", "<s>", source));
  }
  if (field_or(config, "add_eos_token", is_t5, source)) {
    options.eos_id = plain->token_id(token_text(config, "eos_token", "</s>", source));
  }
  return make_sentencepiece_tokenizer(bytes, options, source);
}

// Tables of sentencepiece's normalization, which sentencepiece reads from its own file.
bool has_precompiled_normalizer(const Json& config) {
  const auto is_precompiled = [](const Json& normalizer) {
    return normalizer.is_object() && normalizer.value("type", Json()) == "Precompiled";
  };
  const Json normalizer = config.is_object() ? config.value("normalizer", Json()) : Json();
  if (!normalizer.is_object()) return false;
  const Json parts = normalizer.value("normalizers", Json::array());
  return is_precompiled(normalizer) ||
         (parts.is_array() && std::any_of(parts.begin(), parts.end(), is_precompiled));
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder) {
  std::error_code ignored;
  QUARRY_CHECK(fs::is_directory(folder, ignored), ErrorCode::kNotFound, folder.string(),
               ": not a folder; wanted a model folder with a tokenizer");
  if (fs::exists(folder / "tokenizer.json")) {
    const fs::path path = folder / "tokenizer.json";
    const Json config = read_json_file(path);
    if (!has_precompiled_normalizer(config) || !fs::exists(folder / "spiece.model")) {
      return make_json_tokenizer(config, path.string());
    }
  }
  if (fs::exists(folder / "vocab.txt")) return load_word_piece(folder);
  if (fs::exists(folder / "tokenizer.model")) {
    return load_sentencepiece(folder / "tokenizer.model", "LlamaTokenizer");
  }
  if (fs::exists(folder / "spiece.model")) {
    return load_sentencepiece(folder / "spiece.model", "T5Tokenizer");
  }
  throw_error(ErrorCode::kNotFound, folder.string(),
              ": holds none of tokenizer.json, vocab.txt, tokenizer.model and spiece.model");
}

}  // namespace quarry
