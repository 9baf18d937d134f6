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

}  // namespace quarry
