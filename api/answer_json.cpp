#include "api/answer_json.h"

#include <cctype>

#include "data/core/error.h"

namespace quarry {
namespace {

OrderedJson null_if_absent(const std::optional<double>& value) {
  return value ? OrderedJson(*value) : OrderedJson();
}

std::string percent_encode(const std::string& text) {
  static const char kDigits[] = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || c == '-' || c == '.' || c == '_' || c == '~' || c == '/') {
      encoded += c;
    } else {
      encoded += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return encoded;
}

OrderedJson latent_json(const std::vector<LatentPassage>& passages) {
  OrderedJson list = OrderedJson::array();
  for (size_t z = 0; z < passages.size(); ++z) {
    OrderedJson item;
    item["number"] = z + 1;
    item["passage_id"] = passages[z].hit.passage.id;
    item["title"] = passages[z].hit.passage.title;
    item["prior"] = passages[z].prior;
    item["posterior"] = passages[z].posterior;
    if (!passages[z].text.empty()) item["answer"] = passages[z].text;
    list.push_back(std::move(item));
  }
  return list;
}

}  // namespace

std::string source_url(const Passage& passage) {
  return concat("/source?uri=", percent_encode(passage.document_uri), "&start=", passage.start,
                "&end=", passage.end);
}

OrderedJson hit_json(const Hit& hit) {
  const Passage& passage = hit.passage;
  OrderedJson json;
  json["passage_id"] = passage.id;
  json["score"] = hit.score;
  json["dense_score"] = null_if_absent(hit.dense_score);
  json["lexical_score"] = null_if_absent(hit.lexical_score);
  json["rerank_score"] = null_if_absent(hit.rerank_score);
  json["uri"] = passage.document_uri;
  json["title"] = passage.title;
  json["heading"] = passage.heading;
  json["start"] = passage.start;
  json["end"] = passage.end;
  json["quote"] = passage.text;
  json["url"] = source_url(passage);
  json["metadata"] = passage.metadata;
  return json;
}

OrderedJson search_json(const std::string& query, SearchMode mode, const std::vector<Hit>& hits,
                        double search_seconds) {
  OrderedJson json;
  json["object"] = "list";
  json["query"] = query;
  json["mode"] = search_mode_name(mode);
  json["data"] = OrderedJson::array();
  for (const Hit& hit : hits) json["data"].push_back(hit_json(hit));
  json["search_seconds"] = search_seconds;
  return json;
}

OrderedJson citations_json(const std::vector<Citation>& citations) {
  OrderedJson list = OrderedJson::array();
  for (const Citation& citation : citations) {
    OrderedJson json;
    json["number"] = citation.index;
    json.update(hit_json(citation.hit));
    list.push_back(std::move(json));
  }
  return list;
}

OrderedJson retrieval_json(bool answered, double search_seconds,
                           const std::vector<Citation>& citations,
                           const std::vector<LatentPassage>& passages) {
  OrderedJson json;
  json["answered"] = answered;
  json["search_seconds"] = search_seconds;
  json["citations"] = answered ? citations_json(citations) : OrderedJson::array();
  if (!passages.empty()) json["passages"] = latent_json(passages);
  return json;
}

OrderedJson usage_json(const GenerateResult& result) {
  OrderedJson usage;
  usage["prompt_tokens"] = result.prompt_tokens;
  usage["completion_tokens"] = result.completion_tokens;
  usage["total_tokens"] = result.prompt_tokens + result.completion_tokens;
  usage["prompt_tokens_details"] = {{"cached_tokens", result.cached_tokens}};
  return usage;
}

}  // namespace quarry
