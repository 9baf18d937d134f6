// Questions of one's own as JSON Lines: "question" (or "query"), and as far as known "qid" (or
// "id",
// "_id"; else the row's number), "answers" (or "answer"), "gold_ids" (or "pid"), "title",
// "passage" (or "context").
#include "data/datasets/dataset.h"
#include "data/datasets/lines.h"

namespace quarry {
namespace {

// The first of the fields that the row has, else `fallback`.
const char* first_of(const Json& row, std::initializer_list<const char*> fields,
                     const char* fallback) {
  for (const char* field : fields) {
    if (row.contains(field)) return field;
  }
  return fallback;
}

}  // namespace

std::vector<QaExample> read_jsonl_questions(const DatasetSource& source) {
  std::vector<QaExample> examples;
  for (const std::filesystem::path& file : dataset_files(source.questions, "", ".jsonl")) {
    for_each_json_line(file, [&examples](const Json& row, const std::string& where) {
      QaExample example;
      const char* id = first_of(row, {"qid", "id", "_id"}, nullptr);
      example.qid = id != nullptr ? text_field(row, id, where) : concat(examples.size() + 1);
      example.question = text_field(row, first_of(row, {"question", "query"}, "question"), where);
      example.answers =
          text_list_field(row, first_of(row, {"answers", "answer"}, "answers"), where);
      for (const std::string& gold :
           text_list_field(row, first_of(row, {"gold_ids", "pid"}, "gold_ids"), where)) {
        example.gold_ids[gold] = 1.0;
      }
      if (row.contains("title")) example.gold_title = text_field(row, "title", where);
      for (const char* field : {"passage", "context"}) {
        if (!row.contains(field)) continue;
        example.gold_text = text_field(row, field, where);
        break;
      }
      examples.push_back(std::move(example));
    });
  }
  return examples;
}

}  // namespace quarry
