#include "api/http/sources.h"

#include "api/answer_json.h"

namespace quarry::http {
namespace {

constexpr int64_t kMostPassages = 1000;

int64_t count_code_points(const std::string& text, size_t end) {
  int64_t count = 0;
  for (size_t i = 0; i < end; ++i) count += (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
  return count;
}

OrderedJson annotation(const Citation& citation, const OrderedJson& source, int64_t start,
                       int64_t end) {
  const Passage& passage = citation.hit.passage;
  OrderedJson url_citation;
  url_citation["start_index"] = start;
  url_citation["end_index"] = end;
  url_citation["title"] = passage.title.empty() ? passage.document_uri : passage.title;
  url_citation["url"] = source_url(passage);
  OrderedJson entry;
  entry["type"] = "url_citation";
  entry["url_citation"] = std::move(url_citation);
  entry["source"] = source;
  return entry;
}

}  // namespace

OrderedJson annotations_json(const std::string& answer, const std::vector<Citation>& citations) {
  OrderedJson list = OrderedJson::array();
  const OrderedJson sources = citations_json(citations);
  for (size_t i = 0; i < citations.size(); ++i) {
    const std::string mark = concat("[", citations[i].index, "]");
    size_t at = answer.find(mark);
    if (at == std::string::npos) {
      list.push_back(
          annotation(citations[i], sources[i], 0, count_code_points(answer, answer.size())));
    }
    for (; at != std::string::npos; at = answer.find(mark, at + mark.size())) {
      const int64_t start = count_code_points(answer, at);
      list.push_back(
          annotation(citations[i], sources[i], start, start + static_cast<int64_t>(mark.size())));
    }
  }
  return list;
}

SearchOptions read_search_options(const Fields& fields, const SearchOptions& defaults,
                                  bool has_reranker) {
  SearchOptions options = defaults;
  options.top_k = fields.integer("top_k", 1, kMostPassages).value_or(options.top_k);
  options.candidates = fields.integer("candidates", 1, 10000).value_or(options.candidates);
  options.rerank_candidates =
      fields.integer("rerank_candidates", 0, kMostPassages).value_or(options.rerank_candidates);
  if (fields.find("rerank_candidates") != nullptr && options.rerank_candidates > 0 &&
      !has_reranker) {
    fields.fail("rerank_candidates", "0: no reranker is loaded, start with --rerank MODEL");
  }
  options.dense_weight = fields.number("dense_weight", 0.0, 1.0).value_or(options.dense_weight);
  options.mode = fields.choice("mode", parse_search_mode).value_or(options.mode);
  options.fusion = fields.choice("fusion", parse_fusion).value_or(options.fusion);
  const Json* filter = fields.find("filter");
  if (filter == nullptr) return options;
  if (!filter->is_object()) fields.fail("filter", "an object of strings");
  if (filter->size() > kMaxFilterConditions) {
    fields.fail("filter", concat("at most ", kMaxFilterConditions, " conditions"));
  }
  options.filter.clear();
  for (const auto& [key, value] : filter->items()) {
    if (!value.is_string()) fields.fail("filter", "an object whose values are strings");
    options.filter[key] = value.get<std::string>();
  }
  return options;
}

}  // namespace quarry::http
