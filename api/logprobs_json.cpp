#include "api/logprobs_json.h"

#include <algorithm>

#include "data/text/utf8.h"

namespace quarry {
namespace {

OrderedJson token_json(const Tokenizer& tokenizer, int32_t token, float logprob) {
  OrderedJson json;
  json["token"] = token_text(tokenizer, token);
  json["logprob"] = finite_logprob(logprob);
  json["bytes"] = OrderedJson::array();
  for (const char byte : tokenizer.token_bytes(token)) {
    json["bytes"].push_back(static_cast<unsigned char>(byte));
  }
  return json;
}

}  // namespace

std::string token_text(const Tokenizer& tokenizer, int32_t token) {
  return repair_utf8(tokenizer.token_bytes(token));
}

double finite_logprob(float logprob) { return std::max(double{logprob}, -9999.0); }

OrderedJson logprobs_json(const Tokenizer& tokenizer, const std::vector<TokenLogprobs>& logprobs) {
  OrderedJson list = OrderedJson::array();
  for (const TokenLogprobs& token : logprobs) {
    OrderedJson json = token_json(tokenizer, token.token, token.logprob);
    json["top_logprobs"] = OrderedJson::array();
    for (const TokenLogprobs::Alternative& other : token.top) {
      json["top_logprobs"].push_back(token_json(tokenizer, other.token, other.logprob));
    }
    list.push_back(std::move(json));
  }
  return list;
}

}  // namespace quarry
