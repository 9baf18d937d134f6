#include "finetune/data/row_fields.h"

#include <algorithm>

#include "data/datasets/lines.h"
#include "finetune/data/text_match.h"

namespace quarry {
namespace {

std::string passage_key(const std::string& title, const std::string& text) {
  return title + '\0' + text;
}

}  // namespace

void row_error(const std::string& where, const std::string& field, const std::string& found,
               const std::string& wanted) {
  throw_error(ErrorCode::kCorruptData, where, ": ", field, ": found ", found, ", wanted ", wanted);
}

void for_each_row(const std::filesystem::path& path,
                  const std::function<void(const Json&, const std::string&)>& visit) {
  if (path.extension() != ".json") return for_each_json_line(path, visit);
  const Json root = read_json_file(path);
  QUARRY_CHECK(root.is_array(), ErrorCode::kCorruptData, path.string(), ": found ",
               root.type_name(), ", wanted a list of objects");
  int64_t number = 0;
  for (const Json& row : root) {
    const std::string where = concat(path.string(), ": row ", ++number);
    QUARRY_CHECK(row.is_object(), ErrorCode::kCorruptData, where, ": found ", row.type_name(),
                 ", wanted an object");
    visit(row, where);
  }
}

const char* find_field(const Json& row, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto found = row.find(name);
    if (found != row.end() && !found->is_null()) return name;
  }
  return nullptr;
}

std::string field_or(const Json& row, const std::string& named,
                     std::initializer_list<const char*> usual) {
  if (!named.empty()) return named;
  const char* found = find_field(row, usual);
  return found != nullptr ? found : *usual.begin();
}

bool is_blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\n") == std::string::npos;
}

std::string required_text(const Json& row, const char* field, const std::string& where,
                          const std::string& wanted) {
  const auto found = row.find(field);
  if (found == row.end()) row_error(where, field, "no such field", wanted);
  if (!found->is_string()) row_error(where, field, found->type_name(), wanted);
  std::string text = found->get<std::string>();
  if (is_blank(text)) row_error(where, field, "an empty text", wanted);
  return text;
}

std::string optional_text(const Json& row, const char* field, const std::string& where) {
  const auto found = row.find(field);
  if (found == row.end() || found->is_null()) return "";
  if (!found->is_string()) row_error(where, field, found->type_name(), "text");
  return found->get<std::string>();
}

std::string row_id(const Json& row, const std::string& where) {
  const char* field = find_field(row, {"id", "qid", "_id"});
  if (field == nullptr) return where;
  const Json& value = row[field];
  if (value.is_number_integer()) return value.dump();
  if (!value.is_string()) row_error(where, field, value.type_name(), "text or a whole number");
  return value.get<std::string>();
}

void check_answers(const std::vector<std::string>& answers, const std::string& where) {
  if (std::any_of(answers.begin(), answers.end(), is_blank)) {
    row_error(where, "answers", "an empty text",
              "an answer (an empty list says that the passages do not answer the question)");
  }
}

PassagePool::PassagePool(TrainingSet& set) : set_(set) {
  for (size_t i = 0; i < set.passages.size(); ++i) {
    const Passage& passage = set.passages[i];
    index_of_.emplace(passage_key(passage.title, passage.text), static_cast<int32_t>(i));
  }
}

int32_t PassagePool::add(const std::string& title, const std::string& text) {
  const auto [found, added] =
      index_of_.emplace(passage_key(title, text), static_cast<int32_t>(set_.passages.size()));
  if (added) {
    Passage passage;
    passage.title = title;
    passage.text = text;
    passage.end = static_cast<int64_t>(text.size());
    set_.passages.push_back(std::move(passage));
  }
  return found->second;
}

void find_gold_passage(const TrainingSet& set, TrainingRow& row) {
  row.gold = -1;
  if (row.passages.size() == 1) row.gold = row.passages.front();
  for (const int32_t index : row.passages) {
    if (row.gold >= 0) return;
    const std::string key = match_key(set.passages[static_cast<size_t>(index)].text);
    if (holds_any(key, row.answers)) row.gold = index;
  }
}

}  // namespace quarry
