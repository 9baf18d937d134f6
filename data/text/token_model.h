#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/core/json.h"

namespace quarry {

// Token strings and their ids, both ways. Ids may have gaps. Immutable after construction.
class Vocabulary {
 public:
  Vocabulary() = default;
  // entries: (token, id). Throws kCorruptData for an id that is negative or absurdly large, or a
  // token given twice with different ids; `source` names the file.
  Vocabulary(std::vector<std::pair<std::string, int64_t>> entries, const std::string& source);
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  // -1 when there is no such token.
  int32_t find(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? -1 : found->second;
  }
  // Empty for an id without a token. REQUIRES: 0 <= id < size().
  const std::string& token(int32_t id) const { return tokens_[static_cast<size_t>(id)]; }
  // Largest id + 1.
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }

 private:
  std::vector<std::string> tokens_;  // by id; never changed, the keys view it
  std::unordered_map<std::string_view, int32_t> ids_;
};

// Turns one piece into ids. Immutable from outside; safe in many threads.
class TokenModel {
 public:
  explicit TokenModel(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  virtual ~TokenModel() = default;
  // Appends the ids of `piece` (valid UTF-8, not empty).
  virtual void tokenize(std::string_view piece, std::vector<int32_t>& ids) const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  Vocabulary vocabulary_;
};

struct WordPieceOptions {
  std::string unknown_token = "[UNK]";
  std::string continuing_prefix = "##";
  int64_t max_chars_per_word = 100;  // longer words are unknown
};
// Greedy longest match from the left (Wu et al. 2016, arXiv:1609.08144; Devlin et al. 2018).
std::unique_ptr<TokenModel> make_word_piece_model(Vocabulary vocabulary,
                                                  const WordPieceOptions& options);

struct BpeOptions {
  std::string unknown_token;      // empty: characters outside the vocabulary are dropped
  std::string continuing_prefix;  // put before every character but a word's first
  std::string end_of_word_suffix;
  bool fuse_unknown = false;
  bool byte_fallback = false;  // unknown characters become <0xNN> tokens
  bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges say
};
// Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909). merges: (left, right), best first.
// Throws kCorruptData when a merge names or makes a token that the vocabulary lacks.
std::unique_ptr<TokenModel> make_bpe_model(
    Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges,
    const BpeOptions& options, const std::string& source);

// Best segmentation under token log-probabilities (Kudo 2018, arXiv:1804.10959). scores: by id.
struct UnigramOptions {
  int32_t unknown_id = -1;
  bool byte_fallback = false;
};
std::unique_ptr<TokenModel> make_unigram_model(Vocabulary vocabulary, std::vector<double> scores,
                                               const UnigramOptions& options);

// From the "model" of a tokenizer.json: WordPiece, BPE, Unigram or WordLevel. Throws
// kInvalidArgument naming another type, kCorruptData for wrong fields.
std::unique_ptr<TokenModel> make_token_model(const Json& config, const std::string& source);

}  // namespace quarry
