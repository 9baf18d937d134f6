#pragma once

#include <string>
#include <vector>

namespace quarry {

// A text as compared with others: lower case, without white space and quotation marks, so that line
// ends, tokenised text ("court 's", ``) and typography make no difference.
std::string match_key(const std::string& text);

// Whether any of `texts` is a part of the text whose key is given, compared as keys. Empty ones are
// not looked for.
bool holds_any(const std::string& key, const std::vector<std::string>& texts);

// Of the words of `text` with at least 4 letters, the share that the text whose key is given holds:
// how near the two are. 0 without such a word.
double share_of_words(const std::string& key, const std::string& text);

}  // namespace quarry
