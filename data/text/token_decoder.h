#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/core/json.h"

namespace quarry {

// Turns token strings back into text, as a chain of steps over a list of parts. Immutable.
class TokenDecoder {
 public:
  // kWhole: `parts` are all tokens of a text. kMiddle: they stand somewhere inside a text; what is
  // done only to a text's first or last token is left out, and bytes are not checked for UTF-8.
  enum class Place { kWhole, kMiddle };

  virtual ~TokenDecoder() = default;
  virtual void decode(std::vector<std::string>& parts, Place place) const = 0;
};

std::unique_ptr<TokenDecoder> make_byte_level_decoder();
std::unique_ptr<TokenDecoder> make_word_piece_decoder(const std::string& prefix, bool cleanup);

// From the "decoder" of a tokenizer.json; null for JSON null. Throws kInvalidArgument naming a
// component that we do not have, kCorruptData for wrong fields.
std::unique_ptr<TokenDecoder> make_token_decoder(const Json& config, const std::string& source);

}  // namespace quarry
