#pragma once

#include <string>
#include <vector>

#include "api/http/fields.h"
#include "api/pipeline.h"

namespace quarry::http {

// The annotations of an answer: OpenAI's {"type": "url_citation", "url_citation": {start_index,
// end_index, title, url}} with "source" (one of citations_json) beside it. Indices count
// Unicode code points of `answer`. A passage that the answer marks, "[2]", has one annotation per
// mark, over the mark; the others have one over the whole answer.
OrderedJson annotations_json(const std::string& answer, const std::vector<Citation>& citations);

// Reads {query options}: top_k, mode, fusion, dense_weight, candidates,
// rerank_candidates (more than 0 only where there is a reranker), filter.
SearchOptions read_search_options(const Fields& fields, const SearchOptions& defaults,
                                  bool has_reranker);

}  // namespace quarry::http
