#include <cerrno>
#include <cstring>

#include "data/core/json.h"
#include "indexer/readers/readers.h"
#include "indexer/readers/records.h"
#include "indexer/readers/source_text.h"

namespace quarry {
namespace {

// Strings, numbers and truth values; objects, arrays and nulls are left out.
RecordFields scalar_fields(const Json& object) {
  RecordFields fields;
  for (const auto& [name, value] : object.items()) {
    if (value.is_string()) {
      fields.emplace_back(name, value.get<std::string>());
    } else if (value.is_number() || value.is_boolean()) {
      fields.emplace_back(name, dump_json(value));
    }
  }
  return fields;
}

class JsonlReader : public Reader {
 public:
  const char* name() const override { return "jsonl"; }
  std::vector<std::string> extensions() const override { return {".jsonl", ".ndjson"}; }

  void read(const std::filesystem::path& path, const ReaderOptions& options,
            const ReadSink& sink) const override {
    ByteStream stream(path);
    if (!stream.is_open()) {
      sink.on_skip({SkipKind::kUnreadable, path.string(), std::strerror(errno)});
      return;
    }
    RecordReader records(path, name(), options, sink);
    std::string line;
    int64_t number = 0;
    while (true) {
      line.clear();
      const int64_t taken = stream.read_line(line, options.max_document_bytes);
      if (taken == 0) break;
      const bool is_whole = taken == static_cast<int64_t>(line.size());
      if (++number == 1 && is_whole && line.find('\0') != std::string::npos) {
        sink.on_skip({SkipKind::kUnsupported, path.string(), kNotText});
        return;
      }
      if (!sink.on_bytes(taken) || !read_record(number, taken, line, records)) return;
    }
    report_end(stream, path, sink);
  }

 private:
  bool read_record(int64_t number, int64_t taken, std::string& line, RecordReader& records) const {
    if (taken > static_cast<int64_t>(line.size())) {
      return records.skip(number,
                          concat("a line of ", taken, " bytes: the limit is ", line.size()));
    }
    const std::string_view body = trim(line);
    if (body.empty()) return true;
    Json value;
    try {
      value = parse_json(body, "record", ErrorCode::kCorruptData);
    } catch (const Error& error) {
      return records.skip(number, error.what());
    }
    if (!value.is_object()) return records.skip(number, "not a JSON object");
    return records.add(number, line, scalar_fields(value), RecordText::kOneField);
  }
};

}  // namespace

const Reader& jsonl_reader() {
  static const JsonlReader reader;
  return reader;
}

}  // namespace quarry
