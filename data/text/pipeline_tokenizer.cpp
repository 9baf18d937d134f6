#include "data/text/pipeline_tokenizer.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "data/text/utf8.h"

namespace quarry {
namespace {

class PipelineTokenizer : public Tokenizer {
 public:
  explicit PipelineTokenizer(TokenizerParts parts)
      : parts_(std::move(parts)),
        raw_finder_(select(parts_, false)),
        normalized_finder_(select(parts_, true)) {
    vocab_size_ = parts_.model->vocabulary().size();
    for (const AddedToken& token : parts_.added_tokens) {
      vocab_size_ = std::max(vocab_size_, static_cast<int64_t>(token.id) + 1);
    }
    special_.assign(static_cast<size_t>(vocab_size_), false);
    for (const AddedToken& token : parts_.added_tokens) {
      added_text_[token.id] = token.content;
      added_ids_[token.content] = token.id;
      if (token.special) special_[static_cast<size_t>(token.id)] = true;
    }
  }

  std::vector<int32_t> encode(std::string_view text, SpecialTokens special) const override {
    std::string repaired;
    if (!is_valid_utf8(text)) {
      repaired = repair_utf8(text);
      text = repaired;
    }
    std::vector<int32_t> ids;
    if (special == SpecialTokens::kAdd) ids = parts_.prefix_ids;
    const bool parse = special == SpecialTokens::kParse;
    std::vector<Section> sections;
    raw_finder_.split(text, parse, sections);
    bool starts_text = true;
    for (const Section& section : sections) {
      if (section.id >= 0) {
        ids.push_back(section.id);
      } else {
        encode_section(section.text, parse, starts_text, ids);
      }
      starts_text = false;
    }
    if (special == SpecialTokens::kAdd) {
      ids.insert(ids.end(), parts_.suffix_ids.begin(), parts_.suffix_ids.end());
    }
    return ids;
  }

  std::string decode(const std::vector<int32_t>& ids) const override {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const int32_t id : ids) {
      if (!in_vocabulary(id) || is_special(id)) continue;
      std::string token = token_text(id);
      if (!token.empty()) tokens.push_back(std::move(token));
    }
    if (parts_.decoder) {
      parts_.decoder->decode(tokens, TokenDecoder::Place::kWhole);
      return joined(tokens, "");
    }
    return joined(tokens, " ");
  }

  std::string token_bytes(int32_t id) const override {
    if (!in_vocabulary(id) || is_special(id)) return "";
    std::vector<std::string> tokens{token_text(id)};
    if (!parts_.decoder) return " " + tokens.front();
    parts_.decoder->decode(tokens, TokenDecoder::Place::kMiddle);
    return joined(tokens, "");
  }

  int64_t vocab_size() const override { return vocab_size_; }

  int32_t token_id(std::string_view token) const override {
    const auto added = added_ids_.find(std::string(token));
    return added != added_ids_.end() ? added->second : parts_.model->vocabulary().find(token);
  }

  const PairTemplate* pair_template() const override {
    return parts_.pair ? &*parts_.pair : nullptr;
  }

  bool is_special(int32_t id) const override {
    return in_vocabulary(id) && special_[static_cast<size_t>(id)];
  }

 private:
  // The added tokens to look for in raw text, or in normalized text (as normalized themselves).
  static AddedTokenFinder select(const TokenizerParts& parts, bool normalized) {
    std::vector<AddedToken> tokens;
    for (AddedToken token : parts.added_tokens) {
      if (token.normalized != normalized) continue;
      if (normalized && parts.normalizer) token.content = parts.normalizer->apply(token.content);
      tokens.push_back(std::move(token));
    }
    return AddedTokenFinder(std::move(tokens));
  }

  static std::string joined(const std::vector<std::string>& parts, const char* separator) {
    std::string out;
    for (size_t i = 0; i < parts.size(); ++i) {
      if (i > 0) out += separator;
      out += parts[i];
    }
    return out;
  }

  bool in_vocabulary(int32_t id) const { return id >= 0 && id < vocab_size_; }

  std::string token_text(int32_t id) const {
    const auto added = added_text_.find(id);
    if (added != added_text_.end()) return added->second;
    const Vocabulary& vocabulary = parts_.model->vocabulary();
    return id < vocabulary.size() ? vocabulary.token(id) : std::string();
  }

  void encode_section(std::string_view text, bool parse, bool starts_text,
                      std::vector<int32_t>& ids) const {
    std::string normalized;
    if (parts_.normalizer) {
      normalized = parts_.normalizer->apply(std::string(text));
      text = normalized;
    }
    std::vector<Section> sections;
    normalized_finder_.split(text, parse, sections);
    PreTokenized cut;
    for (const Section& section : sections) {
      if (section.id >= 0) {
        ids.push_back(section.id);
      } else {
        cut.buffers.clear();
        cut.pieces.assign(1, section.text);
        cut.starts_text = starts_text;
        if (parts_.pre_tokenizer) parts_.pre_tokenizer->split(cut);
        for (const std::string_view piece : cut.pieces) parts_.model->tokenize(piece, ids);
      }
      starts_text = false;
    }
  }

  TokenizerParts parts_;
  AddedTokenFinder raw_finder_;
  AddedTokenFinder normalized_finder_;
  int64_t vocab_size_ = 0;
  std::vector<bool> special_;  // by id
  std::unordered_map<int32_t, std::string> added_text_;
  std::unordered_map<std::string, int32_t> added_ids_;
};

}  // namespace

PairTemplate bert_pair_template(int32_t cls_id, int32_t sep_id) {
  return {{{cls_id, 0}}, {{sep_id, 0}}, {{sep_id, 1}}, 0, 1};
}

std::unique_ptr<Tokenizer> make_pipeline_tokenizer(TokenizerParts parts) {
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

}  // namespace quarry
