#include "data/datasets/csv_records.h"

#include <cstddef>

#include "data/core/error.h"
#include "data/datasets/lines.h"

namespace quarry {
namespace {

// Splits lines into records; a record may go on over several lines inside quotes.
class CsvParser {
 public:
  explicit CsvParser(char separator) : separator_(separator) {}

  bool in_quotes() const { return in_quotes_; }

  // True when a record is complete: take it with fields().
  bool feed(const std::string& line, const std::string& where) {
    if (in_quotes_) {
      field_ += '\n';
    } else {
      fields_.clear();
      field_.clear();
      was_quoted_ = false;
    }
    for (size_t i = 0; i < line.size(); ++i) {
      const char c = line[i];
      if (in_quotes_) {
        if (c != '"') {
          field_ += c;
        } else if (i + 1 < line.size() && line[i + 1] == '"') {
          field_ += '"';
          ++i;
        } else {
          in_quotes_ = false;
        }
      } else if (c == '"' && field_.empty() && !was_quoted_) {
        in_quotes_ = was_quoted_ = true;
      } else if (c == separator_) {
        end_field();
      } else {
        QUARRY_CHECK(!was_quoted_, ErrorCode::kCorruptData, where,
                     ": text after a closing quote in field ", fields_.size() + 1);
        field_ += c;
      }
    }
    if (in_quotes_) return false;
    end_field();
    return true;
  }
  const std::vector<std::string>& fields() const { return fields_; }

 private:
  void end_field() {
    fields_.push_back(field_);
    field_.clear();
    was_quoted_ = false;
  }

  char separator_;
  bool in_quotes_ = false;
  bool was_quoted_ = false;
  std::string field_;
  std::vector<std::string> fields_;
};

}  // namespace

void for_each_csv_record(
    const std::filesystem::path& path,
    const std::function<void(const std::vector<std::string>&, const std::string&)>& visit) {
  CsvParser parser(path.extension() == ".tsv" ? '\t' : ',');
  size_t header_fields = 0;
  std::string begin;  // of the record
  for_each_line(path, [&](const std::string& line, const std::string& where) {
    if (!parser.in_quotes()) begin = where;
    if (line.empty() && !parser.in_quotes()) return;
    if (!parser.feed(line, where)) return;
    if (header_fields == 0) header_fields = parser.fields().size();
    QUARRY_CHECK(parser.fields().size() == header_fields, ErrorCode::kCorruptData, begin,
                 ": found ", parser.fields().size(), " fields, the header has ", header_fields);
    visit(parser.fields(), begin);
  });
  QUARRY_CHECK(!parser.in_quotes(), ErrorCode::kCorruptData, begin,
               ": the file ends inside a quoted field");
}

}  // namespace quarry
