#pragma once

#include <string>
#include <vector>

#include "api/pipeline.h"
#include "data/core/json.h"

// What `--json` prints and HTTP answers, under the same names. Null: nothing gave the value.
namespace quarry {

// {"passage_id", "score", "dense_score", "lexical_score", "rerank_score", "uri", "title",
// "heading", "start", "end", "quote", "url", "metadata"}: bytes [start, end) of the document's text
// are `quote`.
OrderedJson hit_json(const Hit& hit);

// {"object": "list", "query", "mode", "data": [hit_json], "search_seconds"}
OrderedJson search_json(const std::string& query, SearchMode mode, const std::vector<Hit>& hits,
                        double search_seconds);

// hit_json with "number" before it, as the passage is numbered in the prompt.
OrderedJson citations_json(const std::vector<Citation>& citations);

// {"answered", "search_seconds", "citations"}, and "passages" where the answer was decoded over
// latent ones: {"number", "passage_id", "title", "prior", "posterior"} of each and the "answer"
// that it alone gives, if any.
OrderedJson retrieval_json(bool answered, double search_seconds,
                           const std::vector<Citation>& citations,
                           const std::vector<LatentPassage>& passages);

// OpenAI's: {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details":
// {"cached_tokens"}}.
OrderedJson usage_json(const GenerateResult& result);

// "/source?uri=...&start=..&end=..": where `quarry serve` shows the span highlighted.
std::string source_url(const Passage& passage);

}  // namespace quarry
