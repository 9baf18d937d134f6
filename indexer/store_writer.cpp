#include "indexer/store_writer.h"

#include <algorithm>

#include "data/core/error.h"

namespace quarry {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kWait(100);
constexpr int64_t kRemovalBytes = 4096;  // what a removal weighs in a transaction

}  // namespace

StoreWriter::StoreWriter(PassageStore& store, const IndexOptions& options)
    : store_(store), options_(options) {}

StoreWriter::~StoreWriter() {
  if (!open_) return;
  try {
    store_.rollback();
  } catch (const Error&) {
    // The transaction ends with the connection.
  }
}

void StoreWriter::run(BoundedQueue<IndexedDocument>& queue) {
  using Pop = BoundedQueue<IndexedDocument>::Pop;
  while (true) {
    IndexedDocument item;
    const Pop pop = queue.pop(item, kWait);
    if (pop == Pop::kEnd) break;
    if (pop == Pop::kItem) {
      begin_if_needed();
      ++(store_.content_hash(item.document.uri) ? pending_.changed : pending_.added);
      store_.put_document(item.document, item.passages, item.vectors.data());
      uris_.push_back(item.document.uri);
      open_bytes_ += item.bytes();
    }
    commit_if_due();
  }
  commit();
}

bool StoreWriter::remove(const std::string& uri) {
  begin_if_needed();
  const bool removed = store_.remove_document(uri);
  if (removed) {
    uris_.push_back(uri);
    ++pending_.removed;
  }
  open_bytes_ += kRemovalBytes;
  commit_if_due();
  return removed;
}

void StoreWriter::begin_if_needed() {
  if (open_) return;
  store_.begin();
  open_ = true;
  open_bytes_ = 0;
  opened_at_ = Clock::now();
}

void StoreWriter::commit_if_due() {
  if (!open_) return;
  const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - opened_at_);
  if (open_bytes_ >= options_.commit_bytes || age.count() >= options_.commit_interval_ms) commit();
}

void StoreWriter::commit() {
  if (!open_) return;
  store_.commit();
  open_ = false;
  committed_.added += pending_.added;
  committed_.changed += pending_.changed;
  committed_.removed += pending_.removed;
  pending_ = Counts();
  if (options_.on_commit) options_.on_commit(uris_);
  uris_.clear();
}

}  // namespace quarry
