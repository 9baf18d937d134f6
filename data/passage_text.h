#pragma once

#include <string>

#include "data/types.h"

namespace quarry {

// What the embedder reads of a passage: the document's title and the section's heading give a
// passage the context that its own words may lack. Used for every vector in an index, so changing
// it changes what an index holds.
inline std::string embedding_text(const std::string& title, const std::string& heading,
                                  const std::string& text) {
  std::string whole;
  whole.reserve(title.size() + heading.size() + text.size() + 2);
  for (const std::string* part : {&title, &heading, &text}) {
    if (part->empty()) continue;
    if (!whole.empty()) whole += '\n';
    whole += *part;
  }
  return whole;
}

inline std::string embedding_text(const Passage& passage) {
  return embedding_text(passage.title, passage.heading, passage.text);
}

}  // namespace quarry
