#pragma once

#include <string>
#include <vector>

#include "data/types.h"

namespace quarry {

// How much the best of `hits` has to do with `question`, 0..1. For one hit it is the mean of
//   - its dense score (cosine of question and passage, below 0 counts as 0), and
//   - coverage: the share of the question's content words (not function words; endings stripped)
//     that the passage's title, heading or text holds.
// Without any dense score among the hits (lexical search) it is 0.9 x coverage; for a question
// without content words the dense score alone. 0 for no hits.
double relevance(const std::string& question, const std::vector<Hit>& hits);

// Below this the documents do not answer the question. api/relevance.cpp says how it was measured.
extern const double kDefaultMinRelevance;

// Number of content words in `text`, each counted once.
size_t count_content_words(const std::string& text);

}  // namespace quarry
