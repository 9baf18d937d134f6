#pragma once

#include <filesystem>
#include <functional>
#include <initializer_list>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/core/json.h"
#include "finetune/data/training_set.h"

namespace quarry {

// Throws kCorruptData "where: field: found ..., wanted ...".
[[noreturn]] void row_error(const std::string& where, const std::string& field,
                            const std::string& found, const std::string& wanted);

// Calls visit(row, where) for every object of a JSON Lines file or, by the suffix .json, of a file
// that is one list of objects. Throws as for_each_json_line.
void for_each_row(const std::filesystem::path& path,
                  const std::function<void(const Json& row, const std::string& where)>& visit);

// The first of `names` that the row has and that is not null; null when it has none.
const char* find_field(const Json& row, std::initializer_list<const char*> names);

// `named`, or where it is empty the first of `usual` that the row has and that is not null, or the
// first of them.
std::string field_or(const Json& row, const std::string& named,
                     std::initializer_list<const char*> usual);

// A text with something besides white space in it. Throws as row_error; `wanted` ends its message.
std::string required_text(const Json& row, const char* field, const std::string& where,
                          const std::string& wanted);
// A text that may be missing, null or empty.
std::string optional_text(const Json& row, const char* field, const std::string& where);
// A text or whole number under one of the usual names; without one, `where`.
std::string row_id(const Json& row, const std::string& where);

bool is_blank(const std::string& text);

// Throws as row_error when `answers` holds a blank text.
void check_answers(const std::vector<std::string>& answers, const std::string& where);

// Puts passages into a set, each pair of title and text once.
class PassagePool {
 public:
  explicit PassagePool(TrainingSet& set);
  // Its index.
  int32_t add(const std::string& title, const std::string& text);

 private:
  TrainingSet& set_;  // borrowed
  std::unordered_map<std::string, int32_t> index_of_;
};

// Sets row.gold to the first of its passages that holds an answer, or to its only one.
void find_gold_passage(const TrainingSet& set, TrainingRow& row);

}  // namespace quarry
