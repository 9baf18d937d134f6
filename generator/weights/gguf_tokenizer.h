#pragma once

#include <string>

#include "data/text/tokenizer.h"
#include "generator/weights/gguf_file.h"

namespace quarry {

// The tokenizer stored in a GGUF file, for make_gguf_tokenizer. Throws kCorruptData when it is
// missing, when its parts disagree in length or when a special token's id is out of range.
GgufTokenizerData read_gguf_tokenizer(const GgufFile& file);

// tokenizer.chat_template, or empty when the file has none.
std::string read_gguf_chat_template(const GgufFile& file);

}  // namespace quarry
