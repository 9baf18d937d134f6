#include "data/text/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstdio>
#include <unordered_map>
#include <utility>

#include "data/core/error.h"
#include "data/text/sentencepiece_check.h"
#include "data/text/utf8.h"

// Of the library's own common.h, which is not installed.
namespace sentencepiece::logging {
void SetMinLogLevel(int level);
}  // namespace sentencepiece::logging

namespace quarry {
namespace {

constexpr char kSpaceMark[] = "\xE2\x96\x81";  // U+2581

// Protobuf merges repeated messages: NormalizerSpec{add_dummy_prefix: false} at the end of a
// ModelProto overrides what stands before it.
constexpr char kNoDummyPrefix[] = "\x1A\x02\x18\x00";

void load(sentencepiece::SentencePieceProcessor& processor, const std::string& proto,
          const std::string& source) {
  constexpr int kErrorsOnly = 2;  // a library does not print notes to standard error
  sentencepiece::logging::SetMinLogLevel(kErrorsOnly);
  std::string reason;
  try {
    const auto status = processor.LoadFromSerializedProto(proto);
    if (!status.ok()) reason = status.ToString();
  } catch (const std::exception& error) {  // of Darts, which the library uses
    reason = error.what();
  }
  QUARRY_CHECK(reason.empty(), ErrorCode::kCorruptData, source,
               ": not a sentencepiece model: ", reason);
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::string& proto, const SentencePieceOptions& options,
                         const std::string& source)
      : options_(options), finder_({}) {
    check_sentencepiece_model(proto, source);
    load(first_, proto, source);
    load(later_, proto + std::string(kNoDummyPrefix, 4), source);
    vocab_size_ = first_.GetPieceSize();
    std::vector<std::string> pieces;
    has_dummy_prefix_ = first_.Encode("a", &pieces).ok() && !pieces.empty() &&
                        pieces.front().compare(0, 3, kSpaceMark) == 0;
    std::vector<AddedToken> tokens;
    for (int32_t id = 0; id < first_.GetPieceSize(); ++id) {
      if (!first_.IsControl(id) && id != first_.unk_id()) continue;
      AddedToken token;
      token.content = first_.IdToPiece(id);
      token.id = id;
      token.special = true;
      tokens.push_back(std::move(token));
    }
    for (const AddedToken& token : options_.added_tokens) {
      QUARRY_CHECK(token.id >= 0 && token.id < (1 << 24), ErrorCode::kCorruptData, source,
                   ": added token \"", token.content, "\" has the id ", token.id);
      vocab_size_ = std::max(vocab_size_, static_cast<int64_t>(token.id) + 1);
      // The configuration's word on a token of the model goes before the model's own.
      tokens.erase(std::remove_if(tokens.begin(), tokens.end(),
                                  [&](const AddedToken& own) { return own.id == token.id; }),
                   tokens.end());
      tokens.push_back(token);
    }
    for (const AddedToken& token : tokens) {
      added_[token.id] = token;
      added_ids_[token.content] = token.id;
    }
    finder_ = AddedTokenFinder(std::move(tokens));
  }

  std::vector<int32_t> encode(std::string_view text, SpecialTokens special) const override {
    const std::string repaired = is_valid_utf8(text) ? std::string() : repair_utf8(text);
    if (!repaired.empty()) text = repaired;
    std::vector<int32_t> ids;
    if (special == SpecialTokens::kAdd && options_.bos_id >= 0) ids.push_back(options_.bos_id);
    std::vector<Section> sections;
    finder_.split(text, special == SpecialTokens::kParse, sections);
    bool starts_text = true;
    for (const Section& section : sections) {
      if (section.id >= 0) {
        ids.push_back(section.id);
      } else {
        std::vector<int> piece_ids;
        const auto& processor = starts_text ? first_ : later_;
        // Fails only for text that is not UTF-8, which cannot be here.
        const auto status = processor.Encode(
            absl::string_view(section.text.data(), section.text.size()), &piece_ids);
        if (status.ok()) ids.insert(ids.end(), piece_ids.begin(), piece_ids.end());
      }
      starts_text = false;
    }
    if (special == SpecialTokens::kAdd && options_.eos_id >= 0) ids.push_back(options_.eos_id);
    return ids;
  }

  std::string decode(const std::vector<int32_t>& ids) const override {
    std::string out;
    for (const int32_t id : ids) out += token_bytes(id);
    out = repair_utf8(out);
    // The space that the model put before the text.
    if (!out.empty() && out.front() == ' ' && has_dummy_prefix_) out.erase(0, 1);
    return out;
  }

  std::string token_bytes(int32_t id) const override {
    if (id < 0 || id >= vocab_size_ || is_special(id)) return "";
    const auto added = added_.find(id);
    if (added != added_.end()) return added->second.content;
    if (id >= first_.GetPieceSize()) return "";
    const std::string& piece = first_.IdToPiece(id);
    if (first_.IsByte(id)) {
      unsigned value = 0;
      return std::sscanf(piece.c_str(), "<0x%2X>", &value) == 1
                 ? std::string(1, static_cast<char>(value))
                 : std::string();
    }
    std::string text;
    for (size_t i = 0; i < piece.size();) {
      if (piece.compare(i, 3, kSpaceMark) == 0) {
        text += ' ';
        i += 3;
      } else {
        text += piece[i++];
      }
    }
    return text;
  }

  int64_t vocab_size() const override { return vocab_size_; }

  int32_t token_id(std::string_view token) const override {
    const auto added = added_ids_.find(std::string(token));
    if (added != added_ids_.end()) return added->second;
    const int id = first_.PieceToId(absl::string_view(token.data(), token.size()));
    return id >= 0 && id < first_.GetPieceSize() && first_.IdToPiece(id) == token ? id : -1;
  }

  bool is_special(int32_t id) const override {
    const auto added = added_.find(id);
    return added != added_.end() && added->second.special;
  }

 private:
  SentencePieceOptions options_;
  sentencepiece::SentencePieceProcessor first_;  // for text that begins the input
  sentencepiece::SentencePieceProcessor later_;  // for text behind a special token
  AddedTokenFinder finder_;
  int64_t vocab_size_ = 0;
  bool has_dummy_prefix_ = false;  // a text begins with a space mark of the model's own
  std::unordered_map<int32_t, AddedToken> added_;
  std::unordered_map<std::string, int32_t> added_ids_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::string& model_proto,
                                                        const SentencePieceOptions& options,
                                                        const std::string& source) {
  return std::make_unique<SentencePieceTokenizer>(model_proto, options, source);
}

}  // namespace quarry
