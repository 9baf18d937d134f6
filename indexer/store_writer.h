#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "data/store/passage_store.h"
#include "indexer/corpus_reader.h"

namespace quarry {

// The last stage: writes documents in transactions of bounded size and age. One thread.
class StoreWriter {
 public:
  // Both are borrowed. Uses on_commit, commit_bytes and commit_interval_ms of the options.
  StoreWriter(PassageStore& store, const IndexOptions& options);
  StoreWriter(const StoreWriter&) = delete;
  StoreWriter& operator=(const StoreWriter&) = delete;
  // Rolls back what is not committed.
  ~StoreWriter();

  // Writes until the queue ends, then commits.
  void run(BoundedQueue<IndexedDocument>& queue);
  bool remove(const std::string& uri);
  // Commits what is open and tells on_commit.
  void commit();

  // What was committed.
  struct Counts {
    int64_t added = 0;
    int64_t changed = 0;
    int64_t removed = 0;
  };
  const Counts& committed() const { return committed_; }

 private:
  void begin_if_needed();
  void commit_if_due();

  PassageStore& store_;
  const IndexOptions& options_;
  bool open_ = false;
  int64_t open_bytes_ = 0;
  std::chrono::steady_clock::time_point opened_at_;
  // Of the open transaction.
  std::vector<std::string> uris_;
  Counts pending_;
  Counts committed_;
};

}  // namespace quarry
