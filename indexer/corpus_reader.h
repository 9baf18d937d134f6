#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "data/core/cancel.h"
#include "data/store/passage_store.h"
#include "data/types.h"
#include "indexer/bounded_queue.h"
#include "indexer/build.h"
#include "indexer/chunker.h"
#include "indexer/walk.h"

namespace quarry {

// A document on its way into the index. `vectors` grows as its passages are embedded.
struct IndexedDocument {
  Document document;
  std::vector<Passage> passages;
  std::vector<float> vectors;

  int64_t bytes() const;
};

// The first stage: finds files, reads and chunks them, and leaves out what the store already holds.
// Used by one thread at a time, except bytes_done() and passages_read().
class CorpusReader {
 public:
  // Everything is borrowed. `store` is a connection of its own.
  CorpusReader(const IndexOptions& options, const ChunkOptions& chunk_options,
               const TokenCounter& count_tokens, const PassageStore& store,
               const CancelFlag& cancel);

  // Lists the files of a source; bytes_total() grows. `required`: a missing path throws kNotFound,
  // else it is reported and its documents stay.
  enum class Path { kRequired, kMayBeMissing };
  void find_files(const Source& source, Path path);

  // Reads all files found, in order, into `queue`, until done, cancelled or the queue is stopped.
  void run(BoundedQueue<IndexedDocument>& queue);

  int64_t bytes_total() const { return bytes_total_; }
  int64_t bytes_done() const { return bytes_done_.load(std::memory_order_relaxed); }
  // Passages handed to the queue: those that the next stage has not embedded lie in it.
  int64_t passages_read() const { return passages_read_.load(std::memory_order_relaxed); }

  // After run(): whether a stored document was met again, or lies where nothing could be read.
  bool still_there(const std::string& uri) const;
  // After run(): what was counted and reported.
  const IndexReport& report() const { return report_; }

 private:
  void read_file(const FoundFile& file, BoundedQueue<IndexedDocument>& queue);
  ReadSink make_sink(const FoundFile& file, BoundedQueue<IndexedDocument>& queue);
  bool is_known(const std::string& uri, const std::string& content_hash);
  bool take(ParsedDocument&& parsed, BoundedQueue<IndexedDocument>& queue);
  void add_skip(Skip&& skip);
  bool going_on() const { return !ended_ && !cancel_.cancelled(); }

  const IndexOptions& options_;
  const ChunkOptions& chunk_options_;
  const TokenCounter& count_tokens_;
  const PassageStore& store_;
  const CancelFlag& cancel_;
  std::vector<FoundFile> files_;
  std::unordered_set<uint64_t> seen_;  // hashes of uris met in this run
  std::vector<std::string> unreadable_;
  bool ended_ = false;  // the next stage takes no more
  int64_t bytes_total_ = 0;
  int64_t file_bytes_ = 0;  // of the current file, counted so far
  std::atomic<int64_t> bytes_done_{0};
  std::atomic<int64_t> passages_read_{0};
  IndexReport report_;
};

}  // namespace quarry
