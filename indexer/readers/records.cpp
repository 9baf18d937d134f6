#include "indexer/readers/records.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "data/core/error.h"
#include "data/core/hash.h"
#include "indexer/readers/source_text.h"

namespace quarry {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr size_t kMaxMetadataBytes = 4096;  // longer values are text, not metadata

const std::vector<std::string> kTitleNames = {"title", "Title", "name", "headline"};
const std::vector<std::string> kTextNames = {"text",    "contents",  "content",  "body",
                                             "passage", "paragraph", "abstract", "Text"};
const std::vector<std::string> kIdNames = {"_id", "id",  "pid", "docid", "doc_id",
                                           "uid", "key", "ID",  "Id"};

// Index of the field called `wanted`, or of the first usual name that is there; -1: none.
int find_field(const RecordFields& fields, const std::string& wanted,
               const std::vector<std::string>& usual) {
  const auto index_of = [&fields](const std::string& name) {
    const auto found = std::find_if(fields.begin(), fields.end(),
                                    [&name](const auto& field) { return field.first == name; });
    return found == fields.end() ? -1 : static_cast<int>(found - fields.begin());
  };
  if (!wanted.empty()) return index_of(wanted);
  for (const std::string& name : usual) {
    if (const int index = index_of(name); index >= 0) return index;
  }
  return -1;
}

std::string joined(const RecordFields& fields) {
  std::string text;
  for (const auto& [name, value] : fields) {
    if (value.empty()) continue;
    if (!text.empty()) text += '\n';
    text += name + ": " + value;
  }
  return text;
}

}  // namespace

ByteStream::ByteStream(const std::filesystem::path& path)
    : file_(path, std::ios::binary), buffer_(kBufferBytes) {}

bool ByteStream::fill() {
  if (at_ < bytes_.size()) return true;
  if (!file_.is_open() || failed_) return false;
  file_.read(buffer_.data(), static_cast<std::streamsize>(buffer_.size()));
  failed_ = file_.bad();
  bytes_ = {buffer_.data(), static_cast<size_t>(file_.gcount())};
  at_ = 0;
  if (!started_) {
    started_ = true;
    if (is_marked_utf16(bytes_)) utf16_.emplace(bytes_[0] == '\xfe');
    bytes_.remove_prefix(byte_order_mark_size(bytes_));
  }
  if (utf16_) {
    decoded_.clear();
    utf16_->decode(bytes_, decoded_);
    if (file_.eof()) utf16_->finish(decoded_);
    bytes_ = decoded_;
  }
  return !bytes_.empty();
}

int ByteStream::refill() { return fill() ? static_cast<unsigned char>(bytes_[at_++]) : -1; }

int ByteStream::peek() { return fill() ? static_cast<unsigned char>(bytes_[at_]) : -1; }

int64_t ByteStream::read_line(std::string& out, int64_t limit) {
  int64_t taken = 0;
  while (fill()) {
    const char* begin = bytes_.data() + at_;
    const size_t available = bytes_.size() - at_;
    const void* newline = std::memchr(begin, '\n', available);
    const size_t count = newline == nullptr
                             ? available
                             : static_cast<size_t>(static_cast<const char*>(newline) - begin) + 1;
    const int64_t room = limit - static_cast<int64_t>(out.size());
    out.append(begin, std::min(count, static_cast<size_t>(std::max<int64_t>(room, 0))));
    at_ += count;
    taken += static_cast<int64_t>(count);
    if (newline != nullptr) break;
  }
  return taken;
}

void report_end(const ByteStream& stream, const std::filesystem::path& path, const ReadSink& sink) {
  if (stream.replaced() > 0) {
    sink.on_warning(path.string(),
                    concat(stream.replaced(), " places that are not UTF-16 were replaced"));
  }
  if (stream.failed()) {
    sink.on_skip({SkipKind::kUnreadable, path.string(), "input/output error"});
  }
}

RecordReader::RecordReader(const std::filesystem::path& path, const char* format,
                           const ReaderOptions& options, const ReadSink& sink)
    : path_(path.string()), format_(format), options_(options), sink_(sink) {}

bool RecordReader::skip(int64_t number, const std::string& reason) {
  return sink_.on_skip({SkipKind::kUnsupported, uri_of(std::to_string(number)), reason});
}

bool RecordReader::add(int64_t number, const std::string& source, const RecordFields& fields,
                       RecordText record_text, const std::string& assumed) {
  const int id = find_field(fields, options_.id_field, kIdNames);
  const int title = find_field(fields, options_.title_field, kTitleNames);
  const int text = find_field(fields, options_.text_field, kTextNames);
  if (text < 0 && !(record_text == RecordText::kAllFields && options_.text_field.empty())) {
    return skip(number, options_.text_field.empty()
                            ? "no text: none of the fields text, contents, content, body, "
                              "passage, paragraph, abstract is a string"
                            : "no text: field '" + options_.text_field + "' is not a string here");
  }
  ParsedDocument parsed;
  Document& document = parsed.document;
  const bool has_id = id >= 0 && !fields[static_cast<size_t>(id)].second.empty();
  const std::string key = has_id ? fields[static_cast<size_t>(id)].second : std::to_string(number);
  if (!seen_ids_.insert(std::hash<std::string>()(key)).second) {
    return skip(number, "id '" + key + "' appeared before in this file");
  }
  document.uri = uri_of(key);
  document.format = format_;
  document.content_hash = sha256_hex(source);
  if (sink_.is_known(document.uri, document.content_hash)) return true;
  if (title >= 0) document.title = fields[static_cast<size_t>(title)].second;
  document.text = text >= 0 ? fields[static_cast<size_t>(text)].second : joined(fields);
  if (trim(document.text).empty()) return skip(number, "empty text");
  for (size_t i = 0; i < fields.size(); ++i) {
    const int index = static_cast<int>(i);
    if (index == id || index == title || index == text) continue;
    const auto& [name, value] = fields[i];
    if (!value.empty() && value.size() <= kMaxMetadataBytes) document.metadata[name] = value;
  }
  if (!assumed.empty()) document.metadata[kAssumedCharset] = assumed;
  return sink_.on_document(std::move(parsed));
}

}  // namespace quarry
