#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/types.h"

namespace quarry {

// A heading in a document's text: bytes [start, end) hold its line (or lines, where it is
// underlined). Level 1 is the outermost.
struct Heading {
  int64_t start = 0;
  int64_t end = 0;
  int level = 1;
  std::string text;  // without markup
};

// What a reader makes of a file or of one record of it. Headings are in order and do not overlap.
struct ParsedDocument {
  Document document;
  std::vector<Heading> headings;
};

// Metadata of a document that is not UTF-8 and does not say what it is: the charset it was read as.
constexpr const char* kAssumedCharset = "assumed_charset";

// Why something that was asked for is not in the index.
enum class SkipKind {
  kUnreadable,   // the system refused; what is stored of it stays
  kUnsupported,  // binary, empty, too large, malformed
};
struct Skip {
  SkipKind kind = SkipKind::kUnsupported;
  std::string uri;  // file, folder or record
  std::string reason;
};

struct ReaderOptions {
  // A larger file (or record of a JSONL or CSV file) is skipped with a reason; bounds the memory.
  int64_t max_document_bytes = int64_t{64} << 20;
  // Fields of JSONL records and columns of CSV files. Empty: the first of the usual names that is
  // there (title; text, contents, content, body, passage; _id, id, pid, docid ...).
  std::string title_field;
  std::string text_field;
  std::string id_field;
  int64_t pdf_timeout_ms = 120000;
};

// Where a reader hands over what it finds. Returning false ends the reading early.
struct ReadSink {
  // The document of this uri with this content hash is already known: it need not be parsed.
  std::function<bool(const std::string& uri, const std::string& content_hash)> is_known;
  std::function<bool(ParsedDocument&& parsed)> on_document;
  std::function<bool(Skip&& skip)> on_skip;
  // A document was taken but not as it lies (broken bytes replaced, a charset assumed).
  std::function<void(const std::string& uri, const std::string& message)> on_warning;
  // Bytes of the source that were used up since the last call.
  std::function<bool(int64_t bytes)> on_bytes;
};

// Turns one file into documents. Holds at most one document (or record) at a time. Bad content is
// reported to the sink, never thrown; the sink's own exceptions pass through. Stateless: safe to
// call from many threads.
class Reader {
 public:
  virtual ~Reader() = default;
  virtual const char* name() const = 0;  // Document::format
  // Lower case, with the dot.
  virtual std::vector<std::string> extensions() const = 0;
  // `path` is absolute; the document's uri is the path, or path#id for a record.
  virtual void read(const std::filesystem::path& path, const ReaderOptions& options,
                    const ReadSink& sink) const = 0;
};

// One line each in readers/registry.cpp.
const std::vector<const Reader*>& all_readers();

// By extension, else by what the first bytes look like; null for a binary file of no known kind.
// `head` is the beginning of the file.
const Reader* find_reader(const std::filesystem::path& path, std::string_view head);

}  // namespace quarry
