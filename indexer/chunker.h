#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "data/types.h"
#include "indexer/readers/reader.h"

namespace quarry {

// Number of tokens of a text for the embedder, without special tokens.
using TokenCounter = std::function<int64_t(std::string_view text)>;

struct ChunkOptions {
  // Most tokens of what is embedded: title, heading and passage. Long passages blur what a vector
  // says and the embedder cuts what exceeds its own limit; short ones lack context.
  int64_t max_tokens = 250;
  // Whole sentences repeated from the end of the passage before, up to so many tokens. Costs time
  // and space in proportion and shows the same words twice.
  int64_t overlap_tokens = 0;
};

// Cuts a document into passages, in order, with document fields, heading and span filled in.
//   - A passage never crosses a heading; a heading with nothing below it joins the next one.
//   - It ends between paragraphs or sentences; only a longer sentence is cut, at a line, else
//     between words, else between characters.
//   - Every character that is not white space is in a passage; without overlap in exactly one.
// Tokens are counted once for each sentence: time is linear in the text.
std::vector<Passage> chunk_document(const ParsedDocument& parsed, const TokenCounter& count_tokens,
                                    const ChunkOptions& options);

}  // namespace quarry
