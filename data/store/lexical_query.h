#pragma once

#include <string>
#include <vector>

namespace quarry {

// Words of a plain text as FTS5's unicode61 splits it (runs of letters, digits and marks), in
// order, lower-cased where ASCII. Invalid UTF-8 separates words.
std::vector<std::string> lexical_words(const std::string& text);

// FTS5 query that matches any of the text's words; pairs of neighbours follow as phrases, which
// find nothing more but raise what has both side by side. Each is quoted, so no operator has a
// meaning, and there once. English function and question words are left out unless nothing else
// remains, and pairs of two of them: FTS5 scores every match, so they cost most of the time and add
// noise. Empty when the text has no word.
std::string lexical_query(const std::string& text);

}  // namespace quarry
