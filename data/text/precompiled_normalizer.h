#pragma once

#include <memory>
#include <string>

#include "data/text/normalizer.h"

namespace quarry {

// sentencepiece's compiled rules (XLM-RoBERTa, T5), applied as PyPI tokenizers does: to each
// grapheme of fewer than six bytes, else to each of its characters. `charsmap`: u32 size of the
// trie in bytes, the trie as a double array (Aoe 1989; layout of darts-clone), then the
// replacements, each with a zero behind it. `source` names the file in errors. Throws kCorruptData.
std::unique_ptr<Normalizer> make_precompiled_normalizer(const std::string& charsmap,
                                                        const std::string& source);

// Throws kCorruptData for what is not base64.
std::string decode_base64(const std::string& text, const std::string& source);

}  // namespace quarry
