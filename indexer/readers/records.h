#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "indexer/readers/charset.h"
#include "indexer/readers/reader.h"

namespace quarry {

// The bytes of a file, one at a time, from a buffer of fixed size. A byte order mark is left out,
// and what follows one of UTF-16 comes as UTF-8.
class ByteStream {
 public:
  explicit ByteStream(const std::filesystem::path& path);
  bool is_open() const { return file_.is_open(); }
  // Next byte 0..255, or -1 at the end.
  int next() { return at_ < bytes_.size() ? static_cast<unsigned char>(bytes_[at_++]) : refill(); }
  // Without taking it.
  int peek();
  // Appends bytes to `out` up to and including the next '\n'; past `limit` bytes of `out` they are
  // dropped. Returns how many bytes were taken: 0 at the end of the file.
  int64_t read_line(std::string& out, int64_t limit);
  // True when the system, not the end of the file, stopped the reading.
  bool failed() const { return failed_; }
  // Places so far that are no UTF-16 where a mark says that it is.
  int64_t replaced() const { return utf16_ ? utf16_->replaced() : 0; }

 private:
  int refill();
  bool fill();

  std::ifstream file_;
  std::vector<char> buffer_;
  std::optional<Utf16Decoder> utf16_;
  std::string decoded_;
  std::string_view bytes_;  // of buffer_ or decoded_
  size_t at_ = 0;
  bool started_ = false;
  bool failed_ = false;
};

// Tells the sink, behind the last record, how the file was read if not as it lies, and whether it
// was not read to its end.
void report_end(const ByteStream& stream, const std::filesystem::path& path, const ReadSink& sink);

// Named values of one record, in their order, all valid UTF-8.
using RecordFields = std::vector<std::pair<std::string, std::string>>;

// What to do with a record none of whose fields is the text.
enum class RecordText {
  kOneField,   // leave it out
  kAllFields,  // its text is "name: value" lines of all fields
};

// Makes documents of a file's records: which fields are id, title and text, the rest is metadata.
class RecordReader {
 public:
  RecordReader(const std::filesystem::path& path, const char* format, const ReaderOptions& options,
               const ReadSink& sink);

  // `number` counts records from 1 and names those without an id ("path#12"). `source` is the
  // record's own bytes, for the hash; `assumed` as CleanText::assumed. False: stop reading.
  bool add(int64_t number, const std::string& source, const RecordFields& fields,
           RecordText record_text, const std::string& assumed = "");
  // Reports record `number` as left out. False: stop reading.
  bool skip(int64_t number, const std::string& reason);

 private:
  std::string uri_of(const std::string& id) const { return path_ + "#" + id; }

  std::string path_;
  const char* format_;
  const ReaderOptions& options_;
  const ReadSink& sink_;
  std::unordered_set<uint64_t> seen_ids_;  // hashes: 8 bytes a record
};

}  // namespace quarry
