#include "indexer/corpus_reader.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>

#include "data/core/error.h"
#include "indexer/sources.h"

namespace quarry {
namespace {

constexpr size_t kHeadBytes = 4096;

uint64_t fingerprint(const std::string& uri) { return std::hash<std::string>()(uri); }

}  // namespace

int64_t IndexedDocument::bytes() const {
  size_t total = sizeof(*this) + document.text.size() + vectors.capacity() * sizeof(float);
  for (const Passage& passage : passages) {
    total += sizeof(Passage) + passage.text.size() + passage.heading.size() + passage.title.size() +
             passage.document_uri.size();
  }
  return static_cast<int64_t>(total);
}

CorpusReader::CorpusReader(const IndexOptions& options, const ChunkOptions& chunk_options,
                           const TokenCounter& count_tokens, const PassageStore& store,
                           const CancelFlag& cancel)
    : options_(options),
      chunk_options_(chunk_options),
      count_tokens_(count_tokens),
      store_(store),
      cancel_(cancel) {}

void CorpusReader::find_files(const Source& source, Path path) {
  WalkOptions walk_options;
  walk_options.include = source.include;
  walk_options.exclude = source.exclude;
  walk_options.index_folder = normal_path(options_.index);
  std::vector<FoundFile> found;
  try {
    found = walk(source.path, walk_options, [this](Skip&& skip) { add_skip(std::move(skip)); });
  } catch (const Error& error) {
    if (path == Path::kRequired) throw;
    add_skip({SkipKind::kUnreadable, source.path,
              "gone; its documents are kept until `quarry index rm` or a build that names it"});
    return;
  }
  for (FoundFile& file : found) {
    bytes_total_ += file.bytes;
    files_.push_back(std::move(file));
  }
}

void CorpusReader::run(BoundedQueue<IndexedDocument>& queue) {
  for (const FoundFile& file : files_) {
    if (!going_on()) return;
    file_bytes_ = 0;
    read_file(file, queue);
    bytes_done_ += std::max<int64_t>(file.bytes - file_bytes_, 0);
  }
}

void CorpusReader::read_file(const FoundFile& file, BoundedQueue<IndexedDocument>& queue) {
  std::array<char, kHeadBytes> head{};
  errno = 0;
  std::ifstream stream(file.path, std::ios::binary);
  if (!stream) {
    add_skip({SkipKind::kUnreadable, file.path.string(), std::strerror(errno)});
    return;
  }
  stream.read(head.data(), head.size());
  const std::string_view bytes(head.data(), static_cast<size_t>(stream.gcount()));
  stream.close();
  if (bytes.empty()) {
    add_skip({SkipKind::kUnsupported, file.path.string(), "empty"});
    return;
  }
  const Reader* reader = find_reader(file.path, bytes);
  if (reader == nullptr) {
    add_skip({SkipKind::kUnsupported, file.path.string(), "binary, of no known format"});
    return;
  }
  reader->read(file.path, options_.reader, make_sink(file, queue));
}

ReadSink CorpusReader::make_sink(const FoundFile& file, BoundedQueue<IndexedDocument>& queue) {
  ReadSink sink;
  sink.is_known = [this](const std::string& uri, const std::string& hash) {
    return is_known(uri, hash);
  };
  sink.on_document = [this, &queue](ParsedDocument&& parsed) {
    return take(std::move(parsed), queue);
  };
  sink.on_skip = [this](Skip&& skip) {
    add_skip(std::move(skip));
    return going_on();
  };
  sink.on_warning = [this](const std::string& uri, const std::string& message) {
    ++report_.warned;
    if (report_.warnings.size() < kMaxListed) report_.warnings.push_back(uri + ": " + message);
  };
  sink.on_bytes = [this, &file](int64_t bytes) {
    const int64_t counted = std::min(bytes, std::max<int64_t>(file.bytes - file_bytes_, 0));
    file_bytes_ += counted;
    bytes_done_ += counted;
    return going_on();
  };
  return sink;
}

bool CorpusReader::is_known(const std::string& uri, const std::string& content_hash) {
  if (seen_.count(fingerprint(uri)) > 0) return true;  // reached through another source
  if (store_.content_hash(uri) != content_hash) return false;
  seen_.insert(fingerprint(uri));
  ++report_.documents_unchanged;
  return true;
}

bool CorpusReader::take(ParsedDocument&& parsed, BoundedQueue<IndexedDocument>& queue) {
  IndexedDocument item;
  item.passages = chunk_document(parsed, count_tokens_, chunk_options_);
  const std::string uri = parsed.document.uri;
  if (item.passages.empty()) {
    add_skip({SkipKind::kUnsupported, uri, "no text"});
    return going_on();
  }
  seen_.insert(fingerprint(uri));
  item.document = std::move(parsed.document);
  const int64_t bytes = item.bytes();
  passages_read_ += static_cast<int64_t>(item.passages.size());
  if (!queue.push(std::move(item), bytes)) ended_ = true;
  return going_on();
}

void CorpusReader::add_skip(Skip&& skip) {
  ++report_.skipped;
  if (skip.kind == SkipKind::kUnreadable) unreadable_.push_back(skip.uri);
  if (report_.skips.size() < kMaxListed) report_.skips.push_back(std::move(skip));
}

bool CorpusReader::still_there(const std::string& uri) const {
  return seen_.count(fingerprint(uri)) > 0 ||
         std::any_of(unreadable_.begin(), unreadable_.end(),
                     [&uri](const std::string& path) { return is_under(uri, path); });
}

}  // namespace quarry
