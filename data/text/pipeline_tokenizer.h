#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/core/json.h"
#include "data/text/added_tokens.h"
#include "data/text/normalizer.h"
#include "data/text/pre_tokenizer.h"
#include "data/text/token_decoder.h"
#include "data/text/token_model.h"
#include "data/text/tokenizer.h"

namespace quarry {

// What a Hugging Face tokenizer is made of, in the order in which a text meets it.
struct TokenizerParts {
  std::vector<AddedToken> added_tokens;
  std::unique_ptr<Normalizer> normalizer;       // may be null
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // may be null
  std::unique_ptr<TokenModel> model;            // never null
  std::vector<int32_t> prefix_ids;              // SpecialTokens::kAdd puts them before the text
  std::vector<int32_t> suffix_ids;              // and these behind
  std::optional<PairTemplate> pair;
  std::unique_ptr<TokenDecoder> decoder;  // null: tokens joined by spaces
};

// "[CLS] a [SEP] b [SEP]", b and its [SEP] of type 1.
PairTemplate bert_pair_template(int32_t cls_id, int32_t sep_id);

std::unique_ptr<Tokenizer> make_pipeline_tokenizer(TokenizerParts parts);

// From a parsed tokenizer.json. `source` names the file in errors. Its "truncation" and "padding"
// are settings of a caller and are left out. Throws kCorruptData; kInvalidArgument naming a
// component that we do not have.
std::unique_ptr<Tokenizer> make_json_tokenizer(const Json& config, const std::string& source);

}  // namespace quarry
