#pragma once

#include <filesystem>

#include "data/core/cancel.h"
#include "data/core/progress.h"
#include "indexer/build.h"
#include "indexer/passage_embedder.h"

namespace quarry {

struct ReembedOptions {
  std::filesystem::path from;  // index folder
  std::filesystem::path to;    // folder for its store; holds none yet
  int64_t embed_batch = 256;   // passages embedded in one call, or a document's
};

// A store with the documents, passages and sources of another index, embedded anew. An interrupted
// one is not whole: write to a StagedFolder. Throws kNotFound, kCorruptData; kInvalidArgument when
// `embedder` reads less than the longest passages have.
IndexReport reembed_store(const ReembedOptions& options, const PassageEmbedder& embedder,
                          Progress& progress, const CancelFlag& cancel);

}  // namespace quarry
