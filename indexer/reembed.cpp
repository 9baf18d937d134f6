#include "indexer/reembed.h"

#include <algorithm>
#include <chrono>

#include "data/core/error.h"
#include "data/core/stopwatch.h"
#include "data/passage_text.h"

namespace quarry {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kSpecialTokens = 2;  // [CLS] and [SEP], or what stands for them

StoreManifest manifest_for(const StoreManifest& before, const PassageEmbedder& embedder) {
  QUARRY_CHECK(before.chunk_tokens + kSpecialTokens <= embedder.max_tokens(),
               ErrorCode::kInvalidArgument, "passages have up to ", before.chunk_tokens,
               " tokens, ", embedder.name(), " reads ", embedder.max_tokens() - kSpecialTokens,
               ": build a new index with it");
  StoreManifest manifest;
  manifest.embedder_name = embedder.name();
  manifest.embedder_path = embedder.path();
  manifest.embedder_hash = embedder.content_hash();
  manifest.dim = embedder.dim();
  manifest.unit_length = embedder.unit_length();
  manifest.chunk_tokens = before.chunk_tokens;
  manifest.chunk_overlap_tokens = before.chunk_overlap_tokens;
  return manifest;
}

class Reembedding {
 public:
  Reembedding(const ReembedOptions& options, const PassageEmbedder& embedder, Progress& progress)
      : from_(PassageStore::open(store_path(options.from), PassageStore::Mode::kReadOnly)),
        to_(PassageStore::create(store_path(options.to),
                                 manifest_for(from_->manifest(), embedder))),
        embedder_(embedder),
        progress_(progress),
        batch_(static_cast<size_t>(std::max<int64_t>(options.embed_batch, 1))) {}

  IndexReport run(const CancelFlag& cancel) {
    const Clock::time_point start = Clock::now();
    to_->begin();
    save_sources(*to_, load_sources(*from_));
    to_->commit();
    const auto documents = from_->list_documents("");
    for (const auto& [uri, hash] : documents) {
      if (cancel.cancelled()) break;
      take(uri);
      if (waiting_.size() >= batch_) write();
      progress_.update("embedding", static_cast<double>(++done_),
                       static_cast<double>(documents.size()),
                       concat(report_.passages_embedded, " passages"));
    }
    write();
    progress_.finish();
    report_.cancelled = cancel.cancelled();
    report_.documents_added = done_;
    report_.stats = to_->stats();
    report_.seconds = seconds_since(start);
    return report_;
  }

 private:
  void take(const std::string& uri) {
    std::optional<Document> document = from_->document(uri);
    QUARRY_CHECK(document.has_value(), ErrorCode::kUnavailable, uri,
                 ": was removed from the index while that was read; begin anew");
    documents_.push_back(std::move(*document));
    std::vector<Passage> passages = from_->passages(from_->passages_of(uri));
    ends_.push_back(waiting_.size() + passages.size());
    std::move(passages.begin(), passages.end(), std::back_inserter(waiting_));
  }

  // Embeds what was taken and writes it in one transaction.
  void write() {
    if (documents_.empty()) return;
    std::vector<std::string> texts;
    for (const Passage& passage : waiting_) texts.push_back(embedding_text(passage));
    const Clock::time_point start = Clock::now();
    std::vector<float> vectors;
    if (!texts.empty()) vectors = embedder_.embed(texts);
    report_.embed_seconds += seconds_since(start);
    report_.passages_embedded += static_cast<int64_t>(texts.size());
    to_->begin();
    size_t begin = 0;
    for (size_t i = 0; i < documents_.size(); ++i) {
      const std::vector<Passage> own(waiting_.begin() + static_cast<std::ptrdiff_t>(begin),
                                     waiting_.begin() + static_cast<std::ptrdiff_t>(ends_[i]));
      to_->put_document(documents_[i], own,
                        vectors.data() + begin * static_cast<size_t>(embedder_.dim()));
      begin = ends_[i];
    }
    to_->commit();
    documents_.clear();
    ends_.clear();
    waiting_.clear();
  }

  std::unique_ptr<PassageStore> from_;
  std::unique_ptr<PassageStore> to_;
  const PassageEmbedder& embedder_;
  Progress& progress_;
  size_t batch_;
  int64_t done_ = 0;
  IndexReport report_;
  std::vector<Document> documents_;  // taken, not yet written
  std::vector<size_t> ends_;         // of each one's passages in waiting_
  std::vector<Passage> waiting_;
};

}  // namespace

IndexReport reembed_store(const ReembedOptions& options, const PassageEmbedder& embedder,
                          Progress& progress, const CancelFlag& cancel) {
  return Reembedding(options, embedder, progress).run(cancel);
}

}  // namespace quarry
