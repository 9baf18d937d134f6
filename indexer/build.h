#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/core/cancel.h"
#include "data/core/progress.h"
#include "data/store/passage_store.h"
#include "indexer/passage_embedder.h"
#include "indexer/readers/reader.h"

namespace quarry {

// Where documents come from. Remembered in the index, so that a build without paths looks again.
struct Source {
  std::string path;  // absolute
  std::vector<std::string> include;
  std::vector<std::string> exclude;
};

// What happens to stored documents under the given paths that are no longer found there.
enum class Missing {
  kRemove,  // `build`: the index follows the folder
  kKeep     // `add`
};

struct IndexOptions {
  std::filesystem::path index;               // folder; made when missing
  std::vector<std::filesystem::path> paths;  // empty: the sources remembered in the index
  std::vector<std::string> include;          // see WalkOptions
  std::vector<std::string> exclude;
  Missing missing = Missing::kRemove;
  ReaderOptions reader;

  // Tokens of one embedded passage, title and heading included; fixed when the index is made.
  // 0: as the index was made, else what the embedder reads at most, up to 250. 250 keeps nine
  // in ten encyclopedia paragraphs whole.
  int64_t chunk_tokens = 0;
  // -1: as the index was made, else 0: passages end at sentences and show nothing twice.
  int64_t chunk_overlap_tokens = -1;

  // Affect only speed and memory.
  int64_t embed_batch = 256;                 // passages embedded in one call
  int64_t queue_bytes = int64_t{32} << 20;   // between two stages
  int64_t commit_bytes = int64_t{32} << 20;  // text and vectors in one transaction
  int64_t commit_interval_ms = 2000;         // a crash loses at most this much work

  // Called after each commit with the uris it made durable. From the writing thread.
  std::function<void(const std::vector<std::string>& uris)> on_commit;
};

// Documents that were removed and that the next build of `source` finds again.
struct ReturningDocuments {
  std::string target;  // as it was named
  Source source;
  std::string
      below_root;  // the target below source.path; empty for records, which no pattern names
};

struct IndexReport {
  int64_t documents_added = 0;
  int64_t documents_changed = 0;
  int64_t documents_removed = 0;
  int64_t documents_unchanged = 0;
  int64_t passages_embedded = 0;
  int64_t skipped = 0;  // all; the first kMaxListed are in `skips`
  std::vector<Skip> skips;
  int64_t warned = 0;
  std::vector<std::string> warnings;
  std::vector<ReturningDocuments> returning;  // of remove_documents(), at most one for a target
  bool cancelled = false;                     // what was committed stays; the same command goes on
  double seconds = 0.0;
  double embed_seconds = 0.0;
  StoreStats stats;  // after the last commit
};
constexpr size_t kMaxListed = 1000;

// File of the passage store in an index folder.
std::filesystem::path store_path(const std::filesystem::path& index);

// Brings the index in step with its sources: reads, chunks, embeds and writes at the same time,
// with bounded memory. Documents are known by uri and content hash: unchanged ones are not embedded
// again. The same input gives the same ids. Throws
//   kNotFound          a given path is missing; no paths and none remembered
//   kInvalidArgument   another embedder or chunk size than the index was made with
//   kUnavailable       another writer, disk full: what was committed stays
// Bad documents never throw; they are in the report.
IndexReport build_store(const IndexOptions& options, const PassageEmbedder& embedder,
                        Progress& progress, const CancelFlag& cancel);

// Removes documents: an uri, or a path with all documents below it or of its records. A path that
// is a remembered source is forgotten. Throws kNotFound naming the first that matches nothing,
// before anything is removed.
struct RemoveOptions {
  std::filesystem::path index;
  std::vector<std::string> targets;
  std::function<void(const std::vector<std::string>& uris)> on_commit;
};
IndexReport remove_documents(const RemoveOptions& options, const CancelFlag& cancel);

// The sources remembered in a store. Throws kCorruptData.
std::vector<Source> load_sources(const PassageStore& store);
// Within begin() and commit().
void save_sources(PassageStore& store, const std::vector<Source>& sources);

}  // namespace quarry
