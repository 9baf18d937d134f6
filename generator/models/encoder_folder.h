#pragma once

#include <cstdint>
#include <filesystem>

namespace quarry {

// Most tokens that an encoder's folder wants a text to have: of sentence_bert_config.json, else of
// tokenizer_config.json; 0: it says nothing. Throws kCorruptData.
int64_t read_max_tokens(const std::filesystem::path& folder);

}  // namespace quarry
