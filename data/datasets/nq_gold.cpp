// Natural Questions with the gold passage inside: JSON Lines with the fields qid, question,
// answers, title and passage.
#include "data/datasets/dataset.h"
#include "data/datasets/lines.h"

namespace quarry {

std::vector<QaExample> read_nq_gold(const DatasetSource& source) {
  std::vector<QaExample> examples;
  for (const std::filesystem::path& file : dataset_files(source.questions, "", ".jsonl")) {
    for_each_json_line(file, [&examples](const Json& row, const std::string& where) {
      QaExample example;
      example.qid = text_field(row, "qid", where);
      example.question = text_field(row, "question", where);
      example.answers = text_list_field(row, "answers", where);
      if (row.contains("title")) example.gold_title = text_field(row, "title", where);
      example.gold_text = text_field(row, "passage", where);
      examples.push_back(std::move(example));
    });
  }
  return examples;
}

}  // namespace quarry
