// Questions as JSON Lines: "question" (or "query"); "answers" or "answer": a text, a list of texts,
// or SQuAD's {"text": [...]} and [{"text": ...}]; passages as "context" (or "passage") with
// "title", or as a list "passages" (or "contexts") of texts or {"title", "text"}; "gold_ids" (or
// "pid") name documents of an index. An empty list of answers, or "is_impossible": true, says that
// the passages do not answer the question.
#include "finetune/data/row_fields.h"

namespace quarry {
namespace {

constexpr const char* kWantedAnswer = "a text, a list of texts or {\"text\": [...]}";

std::string answer_text(const Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number()) return value.dump();
  if (value.is_object() && value.contains("text") && value["text"].is_string()) {
    return value["text"].get<std::string>();
  }
  row_error(where, "answers", value.type_name(), kWantedAnswer);
}

std::vector<std::string> answers_of(const Json& row, const std::string& where) {
  const char* field = find_field(row, {"answers", "answer"});
  const bool impossible = row.contains("is_impossible") && row["is_impossible"] == true;
  if (impossible) return {};
  if (field == nullptr) row_error(where, "answers", "no such field", kWantedAnswer);
  const Json* value = &row[field];
  if (value->is_object() && value->contains("text")) value = &(*value)["text"];
  std::vector<std::string> answers;
  if (value->is_array()) {
    for (const Json& answer : *value) answers.push_back(answer_text(answer, where));
  } else {
    answers.push_back(answer_text(*value, where));
  }
  check_answers(answers, where);
  return answers;
}

void add_passages(const Json& row, const std::string& where, PassagePool& pool,
                  TrainingRow& result) {
  if (const char* field = find_field(row, {"context", "passage"})) {
    result.passages.push_back(pool.add(optional_text(row, "title", where),
                                       required_text(row, field, where, "the passage's text")));
    return;
  }
  const char* field = find_field(row, {"passages", "contexts"});
  if (field == nullptr) return;
  const Json& list = row[field];
  if (!list.is_array()) row_error(where, field, list.type_name(), "a list of passages");
  for (const Json& passage : list) {
    if (passage.is_string()) {
      result.passages.push_back(pool.add("", passage.get<std::string>()));
    } else if (passage.is_object()) {
      result.passages.push_back(
          pool.add(optional_text(passage, "title", where),
                   required_text(passage, "text", where, "the passage's text")));
    } else {
      row_error(where, field, passage.type_name(), "texts or {\"title\", \"text\"}");
    }
  }
}

std::vector<std::string> gold_ids_of(const Json& row, const std::string& where) {
  const char* field = find_field(row, {"gold_ids", "pid"});
  if (field == nullptr) return {};
  const Json& value = row[field];
  std::vector<std::string> ids;
  const auto add = [&](const Json& id) {
    if (!id.is_string() && !id.is_number_integer()) {
      row_error(where, field, id.type_name(), "a text or a list of texts");
    }
    ids.push_back(id.is_string() ? id.get<std::string>() : id.dump());
  };
  if (value.is_array()) {
    for (const Json& id : value) add(id);
  } else {
    add(value);
  }
  return ids;
}

}  // namespace

void read_qa_rows(const std::filesystem::path& path, const TrainingReadOptions& /*options*/,
                  TrainingSet& set) {
  PassagePool pool(set);
  for_each_row(path, [&](const Json& row, const std::string& where) {
    TrainingRow result;
    result.id = row_id(row, where);
    result.where = where;
    const char* question = find_field(row, {"question", "query"});
    result.question = required_text(row, question != nullptr ? question : "question", where,
                                    "the question's text");
    result.answers = answers_of(row, where);
    result.gold_ids = gold_ids_of(row, where);
    add_passages(row, where, pool, result);
    find_gold_passage(set, result);
    set.rows.push_back(std::move(result));
  });
}

}  // namespace quarry
