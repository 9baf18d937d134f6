#include "data/text/token_model.h"

#include <algorithm>
#include <cmath>

#include "data/text/component_json.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

// Larger vocabularies, and ids far beyond the number of tokens, are taken for corrupt files before
// memory is spent on them.
constexpr int64_t kMaxVocabularySize = int64_t{1} << 24;
constexpr int64_t kMaxUnusedIds = int64_t{1} << 16;  // and three for each token
constexpr double kLargestScore = 1e30;               // of a Unigram token

class WordPieceModel : public TokenModel {
 public:
  WordPieceModel(Vocabulary vocabulary, const WordPieceOptions& options)
      : TokenModel(std::move(vocabulary)),
        options_(options),
        unknown_id_(vocabulary_.find(options.unknown_token)) {
    for (int64_t id = 0; id < vocabulary_.size(); ++id) {
      longest_token_ = std::max(longest_token_, vocabulary_.token(static_cast<int32_t>(id)).size());
    }
  }

  void tokenize(std::string_view word, std::vector<int32_t>& ids) const override {
    const size_t kept = ids.size();
    if (static_cast<int64_t>(word.size()) > options_.max_chars_per_word &&
        count_code_points(word) > options_.max_chars_per_word) {
      add_unknown(ids);
      return;
    }
    const std::string& prefix = options_.continuing_prefix;
    std::string candidate;  // prefix + rest of the word
    size_t begin = 0;
    while (begin < word.size()) {
      const bool continues = begin > 0;
      candidate.assign(continues ? prefix : std::string());
      const size_t head = candidate.size();
      candidate.append(word.substr(begin));
      size_t length = std::min(candidate.size(), longest_token_);
      while (length < candidate.size() && length > head && is_continuation(candidate[length])) {
        --length;
      }
      int32_t id = -1;
      while (length > head) {
        id = vocabulary_.find(std::string_view(candidate).substr(0, length));
        if (id >= 0) break;
        do {
          --length;
        } while (length > head && is_continuation(candidate[length]));
      }
      if (id < 0) {
        ids.resize(kept);
        add_unknown(ids);
        return;
      }
      ids.push_back(id);
      begin += length - head;
    }
  }

 private:
  static bool is_continuation(char byte) {
    return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
  }
  void add_unknown(std::vector<int32_t>& ids) const {
    if (unknown_id_ >= 0) ids.push_back(unknown_id_);
  }

  WordPieceOptions options_;
  int32_t unknown_id_;
  size_t longest_token_ = 0;  // bytes
};

// A piece is a token or it is unknown.
class WordLevelModel : public TokenModel {
 public:
  WordLevelModel(Vocabulary vocabulary, const std::string& unknown_token)
      : TokenModel(std::move(vocabulary)), unknown_id_(vocabulary_.find(unknown_token)) {}
  void tokenize(std::string_view piece, std::vector<int32_t>& ids) const override {
    int32_t id = vocabulary_.find(piece);
    if (id < 0) id = unknown_id_;
    if (id >= 0) ids.push_back(id);
  }

 private:
  int32_t unknown_id_;
};

Vocabulary read_vocabulary(const Json& config, const std::string& source) {
  const auto found = config.find("vocab");
  QUARRY_CHECK(found != config.end() && found->is_object(), ErrorCode::kCorruptData, source,
               ": model lacks the object \"vocab\"");
  std::vector<std::pair<std::string, int64_t>> entries;
  entries.reserve(found->size());
  for (const auto& [token, id] : found->items()) {
    QUARRY_CHECK(id.is_number_integer(), ErrorCode::kCorruptData, source, ": token \"", token,
                 "\" has the id ", dump_json(id), ", wanted an integer");
    entries.emplace_back(token, id.get<int64_t>());
  }
  return Vocabulary(std::move(entries), source);
}

std::unique_ptr<TokenModel> read_word_piece(const Json& config, const std::string& source) {
  WordPieceOptions options;
  options.unknown_token = field_or(config, "unk_token", options.unknown_token, source);
  options.continuing_prefix =
      field_or(config, "continuing_subword_prefix", options.continuing_prefix, source);
  options.max_chars_per_word =
      field_or(config, "max_input_chars_per_word", options.max_chars_per_word, source);
  return make_word_piece_model(read_vocabulary(config, source), options);
}

// "left right", or ["left", "right"] since tokenizers 0.20.
std::pair<std::string, std::string> read_merge(const Json& merge, const std::string& source) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  }
  throw_error(ErrorCode::kCorruptData, source, ": BPE merge ", dump_json(merge),
              " is not a pair of tokens");
}

std::unique_ptr<TokenModel> read_bpe(const Json& config, const std::string& source) {
  BpeOptions options;
  options.unknown_token = field_or<std::string>(config, "unk_token", "", source);
  options.continuing_prefix =
      field_or<std::string>(config, "continuing_subword_prefix", "", source);
  options.end_of_word_suffix = field_or<std::string>(config, "end_of_word_suffix", "", source);
  options.fuse_unknown = field_or(config, "fuse_unk", false, source);
  options.byte_fallback = field_or(config, "byte_fallback", false, source);
  options.ignore_merges = field_or(config, "ignore_merges", false, source);
  const double dropout = field_or(config, "dropout", 0.0, source);
  QUARRY_CHECK(dropout == 0.0, ErrorCode::kInvalidArgument, source, ": BPE dropout is ", dropout,
               ", only 0 is supported");
  std::vector<std::pair<std::string, std::string>> merges;
  for (const Json& merge : require_field<Json>(config, "merges", source)) {
    merges.push_back(read_merge(merge, source));
  }
  return make_bpe_model(read_vocabulary(config, source), merges, options, source);
}

std::unique_ptr<TokenModel> read_unigram(const Json& config, const std::string& source) {
  std::vector<std::pair<std::string, int64_t>> entries;
  std::vector<double> scores;
  for (const Json& item : require_field<Json>(config, "vocab", source)) {
    QUARRY_CHECK(item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_number(),
                 ErrorCode::kCorruptData, source, ": Unigram vocabulary entry ", dump_json(item),
                 " is not [token, score]");
    entries.emplace_back(item[0].get<std::string>(), static_cast<int64_t>(entries.size()));
    scores.push_back(item[1].get<double>());
    // Sums of them have to stay finite.
    QUARRY_CHECK(std::fabs(scores.back()) <= kLargestScore, ErrorCode::kCorruptData, source,
                 ": token \"", entries.back().first, "\" has the score ", scores.back());
  }
  UnigramOptions options;
  options.unknown_id = field_or(config, "unk_id", -1, source);
  options.byte_fallback = field_or(config, "byte_fallback", false, source);
  QUARRY_CHECK(options.unknown_id < static_cast<int64_t>(entries.size()), ErrorCode::kCorruptData,
               source, ": unk_id ", options.unknown_id, " of ", entries.size(), " tokens");
  return make_unigram_model(Vocabulary(std::move(entries), source), std::move(scores), options);
}

}  // namespace

Vocabulary::Vocabulary(std::vector<std::pair<std::string, int64_t>> entries,
                       const std::string& source) {
  int64_t largest = -1;
  for (const auto& [token, id] : entries) {
    QUARRY_CHECK(id >= 0 && id < kMaxVocabularySize, ErrorCode::kCorruptData, source, ": token \"",
                 token, "\" has the id ", id, ", wanted 0 to ", kMaxVocabularySize - 1);
    largest = std::max(largest, id);
  }
  const int64_t limit = 4 * static_cast<int64_t>(entries.size()) + kMaxUnusedIds;
  QUARRY_CHECK(largest < limit, ErrorCode::kCorruptData, source, ": the largest id of ",
               entries.size(), " tokens is ", largest);
  tokens_.resize(static_cast<size_t>(largest + 1));
  ids_.reserve(entries.size());
  for (auto& [token, id] : entries) {
    std::string& slot = tokens_[static_cast<size_t>(id)];
    QUARRY_CHECK(slot.empty(), ErrorCode::kCorruptData, source, ": id ", id, " is given to \"",
                 slot, "\" and to \"", token, "\"");
    slot = std::move(token);
    if (!slot.empty()) ids_.emplace(slot, static_cast<int32_t>(id));
  }
}

std::unique_ptr<TokenModel> make_word_piece_model(Vocabulary vocabulary,
                                                  const WordPieceOptions& options) {
  return std::make_unique<WordPieceModel>(std::move(vocabulary), options);
}

std::unique_ptr<TokenModel> make_token_model(const Json& config, const std::string& source) {
  // Files written before tokenizers 0.14 may lack the type.
  std::string type = field_or<std::string>(config, "type", "", source);
  if (type.empty()) type = config.contains("merges") ? "BPE" : "WordPiece";
  if (type == "WordPiece") return read_word_piece(config, source);
  if (type == "BPE") return read_bpe(config, source);
  if (type == "Unigram") return read_unigram(config, source);
  if (type == "WordLevel") {
    return std::make_unique<WordLevelModel>(
        read_vocabulary(config, source),
        field_or<std::string>(config, "unk_token", "[UNK]", source));
  }
  throw_error(ErrorCode::kInvalidArgument, source, ": tokenizer model \"", type,
              "\" is not supported; known: WordPiece, BPE, Unigram, WordLevel");
}

}  // namespace quarry
