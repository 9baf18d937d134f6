#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quarry {

// What a model that reads two texts as one has around them: "[CLS] a [SEP] b [SEP]".
struct PairTemplate {
  struct Token {
    int32_t id = 0;
    int32_t type = 0;  // token type (segment)
  };
  std::vector<Token> before;
  std::vector<Token> between;
  std::vector<Token> after;
  int32_t first_type = 0;  // of the first text's own tokens
  int32_t second_type = 0;
};

// Text <-> token ids of one model. Immutable after construction: every method is safe to call from
// many threads at once.
class Tokenizer {
 public:
  enum class SpecialTokens {
    kNone,  // text only; special-token strings inside `text` are plain text
    kAdd,   // also the template's own tokens ([CLS] ... [SEP], <s> ...)
    kParse  // no template tokens, but special-token strings inside `text` become their ids
            // (rendered chat prompts)
  };

  virtual ~Tokenizer() = default;

  // Invalid UTF-8 is read as U+FFFD. Never throws on any text.
  virtual std::vector<int32_t> encode(std::string_view text, SpecialTokens special) const = 0;
  // Special tokens are skipped. Ids outside [0, vocab_size) are skipped.
  virtual std::string decode(const std::vector<int32_t>& ids) const = 0;
  // Raw bytes of one token as decode() would emit it in the middle of a text: may be a part of a
  // UTF-8 sequence; empty for special tokens.
  virtual std::string token_bytes(int32_t id) const = 0;
  virtual int64_t vocab_size() const = 0;
  // Id of an exact vocabulary entry ("<|im_end|>", "[CLS]"), or -1.
  virtual int32_t token_id(std::string_view token) const = 0;
  virtual bool is_special(int32_t id) const = 0;
  // Null when the tokenizer has no template for two texts.
  virtual const PairTemplate* pair_template() const { return nullptr; }
  // Number of ids that encode(text, kNone) gives, without keeping them.
  virtual int64_t count_tokens(std::string_view text) const {
    return static_cast<int64_t>(encode(text, SpecialTokens::kNone).size());
  }
};

// Emits text from a stream of tokens, holding back bytes that do not yet form whole UTF-8
// characters. One stream, one thread.
class IncrementalDecoder {
 public:
  // `starts_text`: the first token begins a text and does not go on with one, so that the blank
  // which a tokenizer puts before a first word is left out, as decode() does.
  explicit IncrementalDecoder(const Tokenizer& tokenizer, bool starts_text = false)
      : tokenizer_(&tokenizer), at_start_(starts_text) {}
  // Text that became complete with this token; may be empty. Invalid sequences become U+FFFD.
  std::string push(int32_t id);
  // What is still held back, with U+FFFD for an unfinished character.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;  // borrowed
  std::string pending_;
  bool at_start_;
};

// Reads tokenizer.json, else vocab.txt (WordPiece), else tokenizer.model or spiece.model
// (sentencepiece; the latter T5's) from a Hugging Face folder. spiece.model comes first where
// tokenizer.json has a "Precompiled" normalizer: its rules are the file's own. Throws kNotFound,
// kCorruptData; kInvalidArgument for a kind that we do not know, naming it.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder);

// The tokenizer stored inside a GGUF file, as generator/weights hands it over.
struct GgufTokenizerData {
  std::string
      model;  // tokenizer.ggml.model: "gpt2" (byte-level BPE), "llama" (sentencepiece), "bert"
  std::string pre;  // tokenizer.ggml.pre: "smollm", "llama-bpe", "qwen2", "gpt-2", "default"
  std::vector<std::string> tokens;
  std::vector<float> scores;         // "llama" only
  std::vector<int32_t> token_types;  // 1 normal, 2 unknown, 3 control, 4 user defined, 6 byte
  std::vector<std::string> merges;   // "gpt2" only: "left right"
  int32_t bos_id = -1;
  int32_t eos_id = -1;
  int32_t unknown_id = -1;
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = true;
};
std::unique_ptr<Tokenizer> make_gguf_tokenizer(const GgufTokenizerData& data);

}  // namespace quarry
