#pragma once

#include <string>
#include <vector>

#include "data/text/tokenizer.h"
#include "generator/models/text_heads.h"

namespace quarry {

// Which bytes of `text` each id of encode(text, kNone) stands for, white space in front aside. A
// token whose borders cannot be told from its neighbours' has their bytes too, at most the word's.
// Where the tokenizer does not take a text word by word, every token has the whole text.
std::vector<ByteSpan> token_spans(const Tokenizer& tokenizer, const std::string& text);

}  // namespace quarry
