// Questions of one's own as CSV (RFC 4180) or, by the suffix .tsv, tab-separated: a header row with
// "question" and as far as known "qid", "answers" (separated by |), "gold_ids" (likewise), "title"
// and "passage". Quoted fields may hold line ends.
#include <algorithm>

#include "data/datasets/dataset.h"
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

std::vector<std::string> split_bars(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('|', begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

QaExample example_of(const std::vector<std::string>& header, const std::vector<std::string>& fields,
                     size_t row_number) {
  QaExample example;
  example.qid = concat(row_number);
  for (size_t i = 0; i < header.size(); ++i) {
    if (header[i] == "qid" || header[i] == "id") example.qid = fields[i];
    if (header[i] == "question") example.question = fields[i];
    if (header[i] == "answers" || header[i] == "answer") example.answers = split_bars(fields[i]);
    if (header[i] == "gold_ids" || header[i] == "pid") {
      for (const std::string& gold : split_bars(fields[i])) example.gold_ids[gold] = 1.0;
    }
    if (header[i] == "title") example.gold_title = fields[i];
    if (header[i] == "passage") example.gold_text = fields[i];
  }
  return example;
}

}  // namespace

std::vector<QaExample> read_csv_questions(const DatasetSource& source) {
  const std::filesystem::path& path = source.questions;
  CsvParser parser(path.extension() == ".tsv" ? '\t' : ',');
  std::vector<std::string> header;
  std::vector<QaExample> examples;
  std::string last_where = path.string();
  for_each_line(path, [&](const std::string& line, const std::string& where) {
    last_where = where;
    if (line.empty() && !parser.in_quotes()) return;
    if (!parser.feed(line, where)) return;
    if (header.empty()) {
      header = parser.fields();
      QUARRY_CHECK(std::find(header.begin(), header.end(), "question") != header.end(),
                   ErrorCode::kCorruptData, where, ": no column \"question\" in the header");
      return;
    }
    QUARRY_CHECK(parser.fields().size() == header.size(), ErrorCode::kCorruptData, where,
                 ": found ", parser.fields().size(), " fields, the header has ", header.size());
    examples.push_back(example_of(header, parser.fields(), examples.size() + 1));
  });
  QUARRY_CHECK(!parser.in_quotes(), ErrorCode::kCorruptData, last_where,
               ": the file ends inside a quoted field");
  return examples;
}

}  // namespace quarry
