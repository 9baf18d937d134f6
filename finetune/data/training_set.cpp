#include "finetune/data/training_set.h"

#include <optional>
#include <unordered_map>

#include "data/core/error.h"
#include "finetune/data/row_fields.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

std::string reader_names() {
  std::string names = "auto";
  for (const TrainingReader& reader : training_readers()) names += concat(", ", reader.name);
  return names;
}

struct FirstRow {
  Json row;
  std::string where;
};

std::optional<FirstRow> first_row(const fs::path& path) {
  std::optional<FirstRow> first;
  struct Found {};
  try {
    for_each_row(path, [&first](const Json& row, const std::string& where) {
      first = FirstRow{row, where};
      throw Found();
    });
  } catch (const Found&) {
  }
  return first;
}

std::string guess_by_fields(const FirstRow& first, const TrainingReadOptions& options) {
  const auto has = [&first](const char* field) { return first.row.contains(field); };
  const CsvColumns& columns = options.columns;
  if (!options.prompt_template.empty() || !columns.prompt.empty()) return "completion";
  if (!columns.text.empty() || !columns.label.empty()) return "labelled";
  if (has("messages")) return "chat";
  if (has("prompt") || has("instruction")) return "completion";
  if (has("question") && has("qid") && has("pid") && !has("context")) return "squad";
  if (has("question") && has("qid") && has("passage")) return "nq-gold";
  if (has("question") || has("query")) return "qa";
  if (has("label") && (has("text") || has("sentence") || has("sentence1") || has("premise"))) {
    return "labelled";
  }
  std::string fields;
  for (const auto& field : first.row.items()) fields += (fields.empty() ? "" : ", ") + field.key();
  row_error(first.where, "row", "the fields " + fields,
            "question and answers, prompt and completion, instruction and output, messages, or "
            "text and label");
}

std::string guess_format(const fs::path& path, const TrainingReadOptions& options) {
  QUARRY_CHECK(fs::exists(path), ErrorCode::kNotFound, path.string(), ": no such file or folder");
  if (fs::is_directory(path)) return "squad";
  if (path.extension() == ".csv" || path.extension() == ".tsv") return "csv";
  if (path.extension() == ".json" && read_json_file(path).is_object()) return "squad";
  const std::optional<FirstRow> first = first_row(path);
  QUARRY_CHECK(first.has_value(), ErrorCode::kCorruptData, path.string(),
               ": found no row, wanted at least one");
  return guess_by_fields(*first, options);
}

const TrainingReader& find_reader(const std::string& format) {
  for (const TrainingReader& reader : training_readers()) {
    if (format == reader.name) return reader;
  }
  throw_error(ErrorCode::kInvalidArgument, "training data format \"", format,
              "\" is unknown: use one of ", reader_names());
}

void check_ids(const TrainingSet& set) {
  std::unordered_map<std::string, const TrainingRow*> seen;
  for (const TrainingRow& row : set.rows) {
    const auto [first, added] = seen.emplace(row.id, &row);
    if (!added) {
      row_error(row.where, "id", "\"" + row.id + "\", which " + first->second->where + " has too",
                "ids that are there once in all the data");
    }
  }
}

}  // namespace

const std::vector<TrainingReader>& training_readers() {
  static const std::vector<TrainingReader> readers = {
      {"qa", "JSON Lines with question, answers and any of context, title, passages, gold_ids",
       read_qa_rows},
      {"completion", "JSON Lines with prompt and completion, or instruction, input and output",
       read_completion_rows},
      {"chat", "JSON Lines with messages of role and content", read_chat_rows},
      {"labelled", "JSON Lines with text, or sentence1 and sentence2, and label",
       read_labelled_rows},
      {"csv", "CSV or TSV with question and answer, prompt and completion, or text and label",
       read_csv_rows},
      {"squad",
       "SQuAD 1.1/2.0 JSON, or JSON Lines of qid, pid, question, answers and passage files",
       read_squad_rows},
      {"nq-gold", "JSON Lines of qid, question, answers, title, passage in Treebank tokens",
       read_nq_gold_rows},
  };
  return readers;
}

TrainingSet read_training_set(const std::vector<TrainingSource>& sources,
                              const TrainingReadOptions& options) {
  QUARRY_CHECK(!sources.empty(), ErrorCode::kInvalidArgument, "no training data was named");
  TrainingSet set;
  for (const TrainingSource& source : sources) {
    const std::string format =
        source.format == "auto" ? guess_format(source.path, options) : source.format;
    const size_t rows_before = set.rows.size();
    find_reader(format).read(source.path, options, set);
    QUARRY_CHECK(set.rows.size() > rows_before, ErrorCode::kCorruptData, source.path.string(),
                 ": found no row, wanted at least one (read as ", format, ")");
  }
  check_ids(set);
  return set;
}

}  // namespace quarry
