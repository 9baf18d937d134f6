#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace quarry {

// Character classes as PyPI tokenizers 0.23 sees them (see unicode_overrides.h).
bool is_white_space(char32_t c);       // Unicode's White_Space
bool is_numeric(char32_t c);           // Nd, Nl, No
bool is_bert_control(char32_t c);      // Cc, Cf, Co but tab, newline, carriage return
bool is_bert_punctuation(char32_t c);  // P* and ASCII's other symbols
bool is_bert_nonspacing_mark(char32_t c);
bool is_combining_mark(char32_t c);  // M*
bool is_cjk_ideograph(char32_t c);   // the blocks that BERT puts spaces around

// Appends the lower case of one code point, without context (no final sigma).
void append_lowercase(std::string& out, char32_t c);
// REQUIRES: valid UTF-8.
std::string lowercase(std::string_view text);

enum class NormalizationForm { kNfc, kNfd, kNfkc, kNfkd };

// REQUIRES: valid UTF-8. UAX #15.
std::string normalize(std::string_view text, NormalizationForm form);

// First index in `text` that is not white space, and the index behind its last such character
// ({size, size} when there is none).
std::pair<size_t, size_t> trimmed_range(std::string_view text);

}  // namespace quarry
