#pragma once

#include <string>
#include <vector>

#include "api/http/fields.h"
#include "api/pipeline.h"

namespace quarry::http {

// {"score", "dense_score", "lexical_score", "rerank_score", "uri", "title", "heading", "start",
// "end", "quote",
//  "url", "metadata"}: text[start, end) of the document in bytes is `quote`; the single scores
// are null when that mode did not find the passage, or nothing reranked it.
OrderedJson source_json(const Hit& hit);

// source_json with "number", as the passage is numbered in the prompt.
OrderedJson citations_json(const std::vector<Citation>& citations);

// {"number", "prior", "posterior"} of each passage that an answer was decoded over, and the
// "answer" that it alone gives, if any. Numbers as in the citations.
OrderedJson latent_json(const std::vector<LatentPassage>& passages);

// The annotations of an answer: OpenAI's {"type": "url_citation", "url_citation": {start_index,
// end_index, title, url}} with "source" (source_json with "number") beside it. Indices count
// Unicode code points of `answer`. A passage that the answer marks, "[2]", has one annotation per
// mark, over the mark; the others have one over the whole answer.
OrderedJson annotations_json(const std::string& answer, const std::vector<Citation>& citations);

// "/source?uri=...&start=..&end=..": the page with the span highlighted.
std::string source_url(const Passage& passage);

// Reads {query options}: top_k, mode, fusion, dense_weight, candidates,
// rerank_candidates, filter.
SearchOptions read_search_options(const Fields& fields, const SearchOptions& defaults);

}  // namespace quarry::http
