#include "api/http/sources.h"

#include <cctype>

namespace quarry::http {
namespace {

constexpr int64_t kMostPassages = 1000;

OrderedJson null_if_absent(const std::optional<double>& value) {
  return value ? OrderedJson(*value) : OrderedJson();
}

int64_t count_code_points(const std::string& text, size_t end) {
  int64_t count = 0;
  for (size_t i = 0; i < end; ++i) count += (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
  return count;
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

std::string source_url(const Passage& passage) {
  return concat("/source?uri=", percent_encode(passage.document_uri), "&start=", passage.start,
                "&end=", passage.end);
}

OrderedJson source_json(const Hit& hit) {
  const Passage& passage = hit.passage;
  OrderedJson source;
  source["score"] = hit.score;
  source["dense_score"] = null_if_absent(hit.dense_score);
  source["lexical_score"] = null_if_absent(hit.lexical_score);
  source["rerank_score"] = null_if_absent(hit.rerank_score);
  source["uri"] = passage.document_uri;
  source["title"] = passage.title;
  source["heading"] = passage.heading;
  source["start"] = passage.start;
  source["end"] = passage.end;
  source["quote"] = passage.text;
  source["url"] = source_url(passage);
  source["metadata"] = passage.metadata;
  return source;
}

OrderedJson citations_json(const std::vector<Citation>& citations) {
  OrderedJson list = OrderedJson::array();
  for (const Citation& citation : citations) {
    OrderedJson source;
    source["number"] = citation.index;
    source.update(source_json(citation.hit));
    list.push_back(std::move(source));
  }
  return list;
}

OrderedJson latent_json(const std::vector<LatentPassage>& passages) {
  OrderedJson list = OrderedJson::array();
  for (size_t z = 0; z < passages.size(); ++z) {
    OrderedJson item;
    item["number"] = z + 1;
    item["prior"] = passages[z].prior;
    item["posterior"] = passages[z].posterior;
    if (!passages[z].text.empty()) item["answer"] = passages[z].text;
    list.push_back(std::move(item));
  }
  return list;
}

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

SearchOptions read_search_options(const Fields& fields, const SearchOptions& defaults) {
  SearchOptions options = defaults;
  options.top_k = fields.integer("top_k", 1, kMostPassages).value_or(options.top_k);
  options.candidates = fields.integer("candidates", 1, 10000).value_or(options.candidates);
  options.rerank_candidates =
      fields.integer("rerank_candidates", 0, kMostPassages).value_or(options.rerank_candidates);
  options.dense_weight = fields.number("dense_weight", 0.0, 1.0).value_or(options.dense_weight);
  if (const auto mode = fields.string("mode")) {
    try {
      options.mode = parse_search_mode(*mode);
    } catch (const Error& error) {
      throw bad_request(fields.full_name("mode"), error.what());
    }
  }
  if (const auto fusion = fields.string("fusion")) {
    try {
      options.fusion = parse_fusion(*fusion);
    } catch (const Error& error) {
      throw bad_request(fields.full_name("fusion"), error.what());
    }
  }
  const Json* filter = fields.find("filter");
  if (filter == nullptr) return options;
  if (!filter->is_object()) fields.fail("filter", "an object of strings");
  options.filter.clear();
  for (const auto& [key, value] : filter->items()) {
    if (!value.is_string()) fields.fail("filter", "an object whose values are strings");
    options.filter[key] = value.get<std::string>();
  }
  return options;
}

}  // namespace quarry::http
