// Questions of one's own as CSV (RFC 4180) or, by the suffix .tsv, tab-separated: a header row with
// "question" and as far as known "qid", "answers" (separated by |), "gold_ids" (likewise), "title"
// and "passage". Quoted fields may hold line ends.
#include <algorithm>

#include "data/core/error.h"
#include "data/datasets/csv_records.h"
#include "data/datasets/dataset.h"

namespace quarry {
namespace {

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
  std::vector<std::string> header;
  std::vector<QaExample> examples;
  for_each_csv_record(
      source.questions, [&](const std::vector<std::string>& fields, const std::string& where) {
        if (!header.empty()) {
          examples.push_back(example_of(header, fields, examples.size() + 1));
          return;
        }
        header = fields;
        QUARRY_CHECK(std::find(header.begin(), header.end(), "question") != header.end(),
                     ErrorCode::kCorruptData, where, ": no column \"question\" in the header");
      });
  return examples;
}

}  // namespace quarry
