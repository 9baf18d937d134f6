#include "indexer/build.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <exception>
#include <thread>

#include "data/core/error.h"
#include "data/core/stopwatch.h"
#include "data/passage_text.h"
#include "indexer/corpus_reader.h"
#include "indexer/sources.h"
#include "indexer/store_writer.h"
#include "indexer/walk.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using DocumentQueue = BoundedQueue<IndexedDocument>;

constexpr std::chrono::milliseconds kWait(100);
constexpr int64_t kDefaultChunkTokens = 250;
constexpr int64_t kSpecialTokens = 2;  // [CLS] and [SEP], or what stands for them
constexpr int64_t kMinChunkTokens = 16;

StoreManifest new_manifest(const IndexOptions& options, const PassageEmbedder& embedder) {
  StoreManifest manifest;
  manifest.embedder_name = embedder.name();
  manifest.embedder_path = embedder.path();
  manifest.embedder_hash = embedder.content_hash();
  manifest.dim = embedder.dim();
  manifest.unit_length = embedder.unit_length();
  const int64_t most = embedder.max_tokens() - kSpecialTokens;
  manifest.chunk_tokens =
      options.chunk_tokens > 0 ? options.chunk_tokens : std::min(kDefaultChunkTokens, most);
  manifest.chunk_overlap_tokens = std::max<int64_t>(options.chunk_overlap_tokens, 0);
  QUARRY_CHECK(manifest.chunk_tokens >= kMinChunkTokens && manifest.chunk_tokens <= most,
               ErrorCode::kInvalidArgument, "chunks of ", manifest.chunk_tokens, " tokens: wanted ",
               kMinChunkTokens, " to ", most, ", what ", embedder.name(), " reads");
  QUARRY_CHECK(manifest.chunk_overlap_tokens <= manifest.chunk_tokens / 2,
               ErrorCode::kInvalidArgument, "an overlap of ", manifest.chunk_overlap_tokens,
               " tokens: wanted at most half of the chunk's ", manifest.chunk_tokens);
  return manifest;
}

void check_manifest(const StoreManifest& manifest, const IndexOptions& options,
                    const PassageEmbedder& embedder) {
  const std::string index = options.index.string();
  QUARRY_CHECK(manifest.embedder_hash == embedder.content_hash() && manifest.dim == embedder.dim(),
               ErrorCode::kInvalidArgument, index, ": ",
               other_embedder_text(manifest, embedder.name(), embedder.content_hash()));
  QUARRY_CHECK(options.chunk_tokens <= 0 || options.chunk_tokens == manifest.chunk_tokens,
               ErrorCode::kInvalidArgument, index, ": made with chunks of ", manifest.chunk_tokens,
               " tokens, asked for ", options.chunk_tokens, ": build a new index for that");
  QUARRY_CHECK(options.chunk_overlap_tokens < 0 ||
                   options.chunk_overlap_tokens == manifest.chunk_overlap_tokens,
               ErrorCode::kInvalidArgument, index, ": made with an overlap of ",
               manifest.chunk_overlap_tokens, " tokens, asked for ", options.chunk_overlap_tokens,
               ": build a new index for that");
}

std::unique_ptr<PassageStore> open_or_create(const IndexOptions& options,
                                             const PassageEmbedder& embedder) {
  const fs::path path = store_path(options.index);
  std::error_code failure;
  if (fs::exists(path, failure)) {
    auto store = PassageStore::open(path, PassageStore::Mode::kReadWrite);
    check_manifest(store->manifest(), options, embedder);
    return store;
  }
  const StoreManifest manifest = new_manifest(options, embedder);
  fs::create_directories(options.index, failure);
  QUARRY_CHECK(fs::is_directory(options.index), ErrorCode::kUnavailable, options.index.string(),
               ": cannot make this folder: ", failure.message());
  return PassageStore::create(path, manifest);
}

// The middle stage: embeds passages in batches of one size, across documents, and hands documents
// on in order once all their passages are done.
class EmbedStage {
 public:
  EmbedStage(const PassageEmbedder& embedder, int64_t batch, DocumentQueue& out)
      : embedder_(embedder), batch_(std::max<int64_t>(batch, 1)), out_(out) {}

  void add(IndexedDocument&& item) {
    waiting_passages_ += static_cast<int64_t>(item.passages.size());
    item.vectors.reserve(item.passages.size() * static_cast<size_t>(embedder_.dim()));
    waiting_.push_back({std::move(item), 0});
  }
  bool batch_is_full() const { return waiting_passages_ >= batch_; }
  bool is_empty() const { return waiting_passages_ == 0; }

  // False when the writer takes no more.
  bool embed_batch() {
    std::vector<std::string> texts;
    for (const Waiting& waiting : waiting_) {
      for (size_t i = waiting.embedded; i < waiting.item.passages.size(); ++i) {
        if (static_cast<int64_t>(texts.size()) == batch_) break;
        texts.push_back(embedding_text(waiting.item.passages[i]));
      }
    }
    const Clock::time_point start = Clock::now();
    const std::vector<float> vectors = embedder_.embed(texts);
    seconds_ += seconds_since(start);
    passages_ += static_cast<int64_t>(texts.size());
    waiting_passages_ -= static_cast<int64_t>(texts.size());
    return hand_on(vectors, texts.size());
  }

  double seconds() const { return seconds_; }
  int64_t passages() const { return passages_; }

 private:
  struct Waiting {
    IndexedDocument item;
    size_t embedded = 0;
  };

  bool hand_on(const std::vector<float>& vectors, size_t count) {
    const auto dim = static_cast<size_t>(embedder_.dim());
    QUARRY_CHECK(vectors.size() == count * dim, ErrorCode::kInternal, embedder_.name(), ": gave ",
                 vectors.size(), " numbers for ", count, " passages of ", dim);
    auto next = vectors.begin();
    while (!waiting_.empty()) {
      Waiting& front = waiting_.front();
      const size_t missing = front.item.passages.size() - front.embedded;
      const size_t taken = std::min(missing, static_cast<size_t>(vectors.end() - next) / dim);
      const auto stop = next + static_cast<std::ptrdiff_t>(taken * dim);
      front.item.vectors.insert(front.item.vectors.end(), next, stop);
      next = stop;
      front.embedded += taken;
      if (taken < missing) break;
      const int64_t bytes = front.item.bytes();
      const bool pushed = out_.push(std::move(front.item), bytes);
      waiting_.pop_front();
      if (!pushed) return false;
    }
    return true;
  }

  const PassageEmbedder& embedder_;
  int64_t batch_;
  DocumentQueue& out_;
  std::deque<Waiting> waiting_;
  int64_t waiting_passages_ = 0;
  int64_t passages_ = 0;
  double seconds_ = 0.0;
};

// A thread that keeps its exception and always runs `at_end`.
class Stage {
 public:
  template <typename Body, typename AtEnd>
  Stage(const Body& body, const AtEnd& at_end)
      : thread_([this, body, at_end] {
          try {
            body();
          } catch (...) {
            error_ = std::current_exception();
          }
          at_end(error_ != nullptr);
        }) {}
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;
  ~Stage() { join(); }
  void join() {
    if (thread_.joinable()) thread_.join();
  }
  // After join().
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::exception_ptr error_;
  std::thread thread_;
};

class StoreBuild {
 public:
  StoreBuild(const IndexOptions& options, const PassageEmbedder& embedder, Progress& progress,
             const CancelFlag& cancel)
      : options_(options),
        embedder_(embedder),
        progress_(progress),
        cancel_(cancel),
        store_(open_or_create(options, embedder)),
        read_store_(PassageStore::open(store_path(options.index), PassageStore::Mode::kReadOnly)),
        count_tokens_([&embedder](std::string_view text) { return embedder.count_tokens(text); }),
        plan_(plan_sources(*store_, options)) {
    chunk_options_.max_tokens = store_->manifest().chunk_tokens;
    chunk_options_.overlap_tokens = store_->manifest().chunk_overlap_tokens;
  }

  IndexReport run() {
    const Clock::time_point start = Clock::now();
    CorpusReader reader(options_, chunk_options_, count_tokens_, *read_store_, cancel_);
    for (const Source& source : plan_.chosen) {
      reader.find_files(source, options_.paths.empty() ? CorpusReader::Path::kMayBeMissing
                                                       : CorpusReader::Path::kRequired);
    }
    remember_sources();
    run_stages(reader);
    IndexReport report = reader.report();
    report.passages_embedded = passages_embedded_;
    report.embed_seconds = embed_seconds_;
    report.cancelled = cancel_.cancelled();
    if (!report.cancelled && options_.missing == Missing::kRemove) {
      remove_missing(reader);
    }
    report.documents_added = committed_.added;
    report.documents_changed = committed_.changed;
    report.documents_removed = committed_.removed;
    report.stats = store_->stats();
    report.seconds = seconds_since(start);
    progress_.finish();
    return report;
  }

 private:
  void remember_sources() {
    const auto same = [](const Source& a, const Source& b) {
      return a.path == b.path && a.include == b.include && a.exclude == b.exclude;
    };
    const std::vector<Source> before = load_sources(*store_);
    if (std::equal(before.begin(), before.end(), plan_.remembered.begin(), plan_.remembered.end(),
                   same)) {
      return;
    }
    store_->begin();
    save_sources(*store_, plan_.remembered);
    store_->commit();
  }

  void run_stages(CorpusReader& reader) {
    DocumentQueue read_queue(options_.queue_bytes);
    DocumentQueue write_queue(options_.queue_bytes);
    StoreWriter writer(*store_, options_);
    std::exception_ptr embed_error;
    Stage read_stage([&] { reader.run(read_queue); }, [&](bool) { read_queue.close(); });
    Stage write_stage([&] { writer.run(write_queue); },
                      [&](bool failed) {
                        if (!failed) return;
                        write_queue.stop();
                        read_queue.stop();
                      });
    try {
      embed_all(reader, read_queue, write_queue);
    } catch (...) {
      embed_error = std::current_exception();
    }
    // Whole documents that are embedded are written even after an error or a cancel.
    read_queue.stop();
    write_queue.close();
    read_stage.join();
    write_stage.join();
    write_stage.rethrow();
    if (embed_error) std::rethrow_exception(embed_error);
    read_stage.rethrow();
    committed_ = writer.committed();
  }

  void embed_all(const CorpusReader& reader, DocumentQueue& in, DocumentQueue& out) {
    using Pop = DocumentQueue::Pop;
    EmbedStage embed(embedder_, options_.embed_batch, out);
    bool going_on = true;
    while (going_on && !cancel_.cancelled()) {
      IndexedDocument item;
      const Pop pop = in.pop(item, kWait);
      if (pop == Pop::kItem) embed.add(std::move(item));
      while (going_on && !cancel_.cancelled() &&
             (embed.batch_is_full() || (pop == Pop::kEnd && !embed.is_empty()))) {
        going_on = embed.embed_batch();
        embed_seconds_ = embed.seconds();
        passages_embedded_ = embed.passages();
        show_progress(reader);
      }
      show_progress(reader);
      if (pop == Pop::kEnd) break;
    }
  }

  void show_progress(const CorpusReader& reader) {
    const double rate =
        embed_seconds_ > 0.0 ? static_cast<double>(passages_embedded_) / embed_seconds_ : 0.0;
    // Reading runs far ahead of embedding: of the bytes read, the share that is embedded counts.
    const int64_t passages_read = reader.passages_read();
    const double embedded_share = passages_read > 0 ? static_cast<double>(passages_embedded_) /
                                                          static_cast<double>(passages_read)
                                                    : 1.0;
    progress_.update("indexing", static_cast<double>(reader.bytes_done()) * embedded_share,
                     static_cast<double>(reader.bytes_total()),
                     concat(passages_embedded_, " passages, ", static_cast<int64_t>(rate), "/s"));
  }

  // Belongs to a source that this run did not look at.
  bool is_kept_elsewhere(const std::string& uri) const {
    return std::any_of(plan_.remembered.begin(), plan_.remembered.end(), [&](const Source& other) {
      return is_under(uri, other.path) &&
             std::none_of(plan_.chosen.begin(), plan_.chosen.end(),
                          [&](const Source& chosen) { return chosen.path == other.path; });
    });
  }

  void remove_missing(const CorpusReader& reader) {
    StoreWriter writer(*store_, options_);
    for (const Source& source : plan_.chosen) {
      for (const auto& [uri, hash] : store_->list_documents(source.path)) {
        if (!is_under(uri, source.path) || reader.still_there(uri) || is_kept_elsewhere(uri)) {
          continue;
        }
        writer.remove(uri);
      }
    }
    writer.commit();
    committed_.removed = writer.committed().removed;
  }

  const IndexOptions& options_;
  const PassageEmbedder& embedder_;
  Progress& progress_;
  const CancelFlag& cancel_;
  std::unique_ptr<PassageStore> store_;
  std::unique_ptr<PassageStore> read_store_;  // for the reading thread
  TokenCounter count_tokens_;
  SourcePlan plan_;
  ChunkOptions chunk_options_;
  int64_t passages_embedded_ = 0;
  double embed_seconds_ = 0.0;
  StoreWriter::Counts committed_;
};

}  // namespace

fs::path store_path(const fs::path& index) { return index / "quarry.db"; }

IndexReport build_store(const IndexOptions& options, const PassageEmbedder& embedder,
                        Progress& progress, const CancelFlag& cancel) {
  return StoreBuild(options, embedder, progress, cancel).run();
}

}  // namespace quarry
