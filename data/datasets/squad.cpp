// SQuAD 1.1 and 2.0: the official JSON (data > paragraphs > qas), or JSON Lines with the fields
// qid, pid, question and answers.
#include <algorithm>

#include "data/datasets/dataset.h"
#include "data/datasets/lines.h"

namespace quarry {
namespace {

const Json& list_at(const Json& value, const char* field, const std::string& where) {
  const auto found = value.is_object() ? value.find(field) : value.end();
  QUARRY_CHECK(value.is_object() && found != value.end() && found->is_array(),
               ErrorCode::kCorruptData, where, ": no list \"", field, "\"");
  return *found;
}

void add_paragraph(const Json& paragraph, const std::string& title, const std::string& where,
                   std::vector<QaExample>& examples) {
  const Json& questions = list_at(paragraph, "qas", where);
  const std::string context = text_field(paragraph, "context", where);
  for (const Json& question : questions) {
    QUARRY_CHECK(question.is_object(), ErrorCode::kCorruptData, where, ": a question is ",
                 question.type_name(), ", wanted an object");
    QaExample example;
    example.qid = text_field(question, "id", where);
    example.question = text_field(question, "question", where);
    example.gold_title = title;
    example.gold_text = context;
    for (const Json& answer : list_at(question, "answers", where + ", question " + example.qid)) {
      QUARRY_CHECK(answer.is_object(), ErrorCode::kCorruptData, where, ", question ", example.qid,
                   ": an answer is ", answer.type_name(), ", wanted an object");
      std::string text = text_field(answer, "text", where);
      const auto same = std::find(example.answers.begin(), example.answers.end(), text);
      if (same == example.answers.end()) example.answers.push_back(std::move(text));
    }
    examples.push_back(std::move(example));
  }
}

std::vector<QaExample> read_official(const std::filesystem::path& path) {
  const Json root = read_json_file(path);
  std::vector<QaExample> examples;
  int64_t article_number = 0;
  for (const Json& article : list_at(root, "data", path.string())) {
    const std::string where = concat(path.string(), ": article ", ++article_number);
    const Json& paragraphs = list_at(article, "paragraphs", where);
    std::string title = article.contains("title") ? text_field(article, "title", where) : "";
    std::replace(title.begin(), title.end(), '_', ' ');
    for (const Json& paragraph : paragraphs) add_paragraph(paragraph, title, where, examples);
  }
  return examples;
}

}  // namespace

std::vector<QaExample> read_squad(const DatasetSource& source) {
  if (source.questions.extension() == ".json") return read_official(source.questions);
  std::vector<QaExample> examples;
  for (const std::filesystem::path& file : dataset_files(source.questions, "questions", ".jsonl")) {
    for_each_json_line(file, [&examples](const Json& row, const std::string& where) {
      QaExample example;
      example.qid = text_field(row, "qid", where);
      example.question = text_field(row, "question", where);
      example.answers = text_list_field(row, "answers", where);
      example.gold_ids[text_field(row, "pid", where)] = 1.0;
      examples.push_back(std::move(example));
    });
  }
  return examples;
}

}  // namespace quarry
