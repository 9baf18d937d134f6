#include <cerrno>
#include <cstring>

#include "data/core/error.h"
#include "data/text/utf8.h"
#include "indexer/readers/charset.h"
#include "indexer/readers/readers.h"
#include "indexer/readers/records.h"
#include "indexer/readers/source_text.h"

namespace quarry {
namespace {

// One record: its fields, and its bytes as they lie in the file.
struct CsvRecord {
  std::vector<std::string> fields;
  std::string source;
  std::string assumed;  // CleanText::assumed
  int64_t taken = 0;
  bool too_long = false;
  bool unclosed_quote = false;
};

// RFC 4180: fields may be quoted, a quote inside is doubled, quoted fields may hold line breaks.
class CsvParser {
 public:
  CsvParser(ByteStream& stream, char separator, int64_t limit)
      : stream_(stream), separator_(separator), limit_(limit) {}

  // False at the end of the file.
  bool next(CsvRecord& record) {
    record = CsvRecord();
    if (stream_.peek() < 0) return false;
    std::string field;
    bool quoted = false;
    int c = 0;
    while ((c = take(record)) >= 0) {
      const char byte = static_cast<char>(c);
      if (quoted) {
        if (byte != '"') {
          append(record, field, byte);
        } else if (stream_.peek() == '"') {
          append(record, field, static_cast<char>(take(record)));
        } else {
          quoted = false;
        }
      } else if (byte == '"' && field.empty()) {
        quoted = true;
      } else if (byte == separator_) {
        finish_field(record, field);
      } else if (byte == '\n') {
        break;
      } else if (byte != '\r' || stream_.peek() != '\n') {
        append(record, field, byte);
      }
    }
    record.unclosed_quote = quoted;
    finish_field(record, field);
    decode(record);
    return true;
  }

 private:
  int take(CsvRecord& record) {
    const int c = stream_.next();
    if (c < 0) return c;
    ++record.taken;
    if (record.taken > limit_) {
      record.too_long = true;
    } else {
      record.source += static_cast<char>(c);
    }
    return c;
  }

  static void append(const CsvRecord& record, std::string& field, char byte) {
    if (!record.too_long) field += byte;
  }

  static void finish_field(CsvRecord& record, std::string& field) {
    if (!record.too_long) record.fields.push_back(field);
    field.clear();
  }

  // By all of the record, for a field alone may be too short to tell; where that is, too, as what
  // came before it.
  void decode(CsvRecord& record) {
    if (is_valid_utf8(record.source)) return;
    const std::optional<CleanText> clean = clean_text(record.source);
    if (clean && !clean->assumed.empty()) assumed_ = clean->assumed;
    if (!record.too_long) record.assumed = assumed_;
    for (std::string& field : record.fields) {
      if (record.assumed.empty()) {
        field = repair_utf8(field);
      } else {
        field = decode_charset(field, record.assumed).value_or(DecodedText()).text;
      }
    }
  }

  ByteStream& stream_;
  char separator_;
  int64_t limit_;
  std::string assumed_;
};

class SeparatedReader : public Reader {
 public:
  SeparatedReader(const char* name, const char* extension, char separator)
      : name_(name), extension_(extension), separator_(separator) {}
  const char* name() const override { return name_; }
  std::vector<std::string> extensions() const override { return {extension_}; }

  void read(const std::filesystem::path& path, const ReaderOptions& options,
            const ReadSink& sink) const override {
    ByteStream stream(path);
    if (!stream.is_open()) {
      sink.on_skip({SkipKind::kUnreadable, path.string(), std::strerror(errno)});
      return;
    }
    CsvParser parser(stream, separator_, options.max_document_bytes);
    RecordReader records(path, name(), options, sink);
    CsvRecord record;
    if (!parser.next(record)) {
      sink.on_skip({SkipKind::kUnsupported, path.string(), "empty"});
      return;
    }
    if (record.source.find('\0') != std::string::npos) {
      sink.on_skip({SkipKind::kUnsupported, path.string(), kNotText});
      return;
    }
    std::string assumed = record.assumed;
    const std::vector<std::string> header = record.fields;
    if (!sink.on_bytes(record.taken)) return;
    for (int64_t number = 1; parser.next(record); ++number) {
      if (!sink.on_bytes(record.taken) || !read_row(number, header, record, records)) return;
      if (assumed.empty()) assumed = record.assumed;
    }
    if (!assumed.empty()) sink.on_warning(path.string(), assumption_text(assumed));
    report_end(stream, path, sink);
  }

 private:
  static bool read_row(int64_t number, const std::vector<std::string>& header,
                       const CsvRecord& record, RecordReader& records) {
    if (record.too_long) {
      return records.skip(
          number, concat("a row of ", record.taken, " bytes: the limit is ", record.source.size()));
    }
    if (record.unclosed_quote) return records.skip(number, "a quote is never closed");
    if (record.fields.size() == 1 && record.fields[0].empty()) return true;  // blank line
    if (record.fields.size() != header.size()) {
      return records.skip(number, concat("a row of ", record.fields.size(),
                                         " fields: the header has ", header.size()));
    }
    RecordFields fields;
    for (size_t i = 0; i < header.size(); ++i) fields.emplace_back(header[i], record.fields[i]);
    return records.add(number, record.source, fields, RecordText::kAllFields, record.assumed);
  }

  const char* name_;
  const char* extension_;
  char separator_;
};

}  // namespace

const Reader& csv_reader() {
  static const SeparatedReader reader("csv", ".csv", ',');
  return reader;
}

const Reader& tsv_reader() {
  static const SeparatedReader reader("tsv", ".tsv", '\t');
  return reader;
}

}  // namespace quarry
