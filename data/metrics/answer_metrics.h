#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quarry {

// Scores of a predicted answer against its gold answers, as SQuAD 1.1's evaluate-v1.1.py gives them
// (Rajpurkar et al. 2016, arXiv:1606.05250). Pure functions.

// Lower case, ASCII punctuation removed, the articles a, an and the removed as whole words, runs of
// white space made one space and trimmed. Lower case and white space are Unicode's, as in Python,
// but without Python's context rule for the final sigma.
std::string normalize_answer(std::string_view text);

// 1 when the normalized texts are equal, else 0; best over `golds`, 0 without any.
double exact_match(std::string_view prediction, const std::vector<std::string>& golds);

// Harmonic mean of precision and recall over the bags of normalized tokens; best over `golds`, 0
// without any or when no token is shared.
double token_f1(std::string_view prediction, const std::vector<std::string>& golds);

}  // namespace quarry
