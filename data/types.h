#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace quarry {

// Flat string metadata of a document (author, date, any column of a CSV row ...).
using Metadata = std::map<std::string, std::string>;

// A document as a reader produced it: `text` is valid UTF-8 and is what spans point into.
struct Document {
  int64_t id = 0;   // key in the passage store; 0 until stored
  std::string uri;  // absolute path, plus "#<record id>" for one record of a file
  std::string title;
  std::string format;        // reader's name: "markdown", "html", "jsonl", ...
  std::string content_hash;  // SHA-256 of the source bytes
  std::string text;
  Metadata metadata;
};

// A piece of a document. [start, end) are byte offsets into Document::text: text.substr(start,
// end - start) == Passage::text, always.
struct Passage {
  int64_t id = 0;  // key in the passage store and in the vector index; 0 until stored
  int64_t document_id = 0;
  std::string document_uri;
  std::string title;    // of the document
  std::string heading;  // path of section headings, " > " between them; may be empty
  int64_t start = 0;
  int64_t end = 0;
  std::string text;
  Metadata metadata;  // of the document
};

// One search result. Higher score is better, within one search only.
struct Hit {
  Passage passage;
  double score = 0.0;                   // of the mode that was asked for, or of a reranker
  std::optional<double> dense_score;    // inner product; of unit vectors -1..1
  std::optional<double> lexical_score;  // BM25, >= 0
  std::optional<double> rerank_score;   // a cross-encoder's logit
};

// A source that an answer stands on: number `index` (from 1) in the prompt and in the printed list.
struct Citation {
  int index = 0;
  Hit hit;
};

}  // namespace quarry
