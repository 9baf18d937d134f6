#pragma once

#include <vector>

#include "data/core/json.h"
#include "data/text/tokenizer.h"
#include "generator/decode/logprobs.h"

namespace quarry {

// A token as valid UTF-8; what is no character is shown as U+FFFD.
std::string token_text(const Tokenizer& tokenizer, int32_t token);

// JSON has no infinity: a token that cannot come has the logarithm -9999, as with OpenAI.
double finite_logprob(float logprob);

// OpenAI's logprobs.content: [{"token", "logprob", "bytes", "top_logprobs": [{"token", "logprob",
// "bytes"}]}].
OrderedJson logprobs_json(const Tokenizer& tokenizer, const std::vector<TokenLogprobs>& logprobs);

}  // namespace quarry
