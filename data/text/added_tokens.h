#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quarry {

// A token that is found in the text before it is cut.
struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool special = false;      // skipped by decode(); found only with SpecialTokens::kParse
  bool single_word = false;  // only between non-word characters
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = false;   // looked for in the normalized text
};

// A stretch of text, or one added token when id >= 0.
struct Section {
  std::string_view text;
  int32_t id = -1;
};

// Leftmost-longest search for a set of added tokens. Immutable; safe in many threads.
class AddedTokenFinder {
 public:
  // Tokens with empty content are ignored.
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);

  // Appends the sections of `text` (views of it), in order; special tokens are plain text unless
  // `parse_special`.
  void split(std::string_view text, bool parse_special, std::vector<Section>& sections) const;

 private:
  const AddedToken* longest_at(std::string_view text, size_t position) const;

  std::vector<AddedToken> tokens_;                     // by first byte, then longest first
  std::array<std::pair<size_t, size_t>, 256> ranges_;  // of tokens_, by first byte
};

}  // namespace quarry
