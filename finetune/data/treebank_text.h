#pragma once

#include <string>

namespace quarry {

// Running text of Penn Treebank tokens joined by blanks, as Natural Questions has it: `` and ''
// become quotation marks; punctuation, brackets, hyphens and clitics ("court 's") lose the blanks
// that the tokenizer put around them. Other text changes only where it has such blanks of its own.
std::string from_treebank_tokens(const std::string& text);

}  // namespace quarry
