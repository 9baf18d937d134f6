#include "data/datasets/dataset.h"

#include <optional>
#include <unordered_set>

#include "data/core/error.h"
#include "data/datasets/lines.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

std::string reader_names() {
  std::string names = "auto";
  for (const DatasetReader& reader : dataset_readers()) names += std::string(", ") + reader.name;
  return names;
}

// First object of a JSON Lines file.
std::optional<Json> first_row(const fs::path& path) {
  struct Found {};
  std::optional<Json> row;
  try {
    for_each_json_line(path, [&row](const Json& value, const std::string& /*where*/) {
      row = value;
      throw Found();
    });
  } catch (const Found&) {
  }
  return row;
}

std::string guess_reader(const DatasetSource& source) {
  const fs::path& path = source.questions;
  QUARRY_CHECK(fs::exists(path), ErrorCode::kNotFound, path.string(), ": no such file or folder");
  if (!source.qrels.empty()) return "beir";
  if (fs::is_directory(path)) {
    for (const char* name : {"queries.jsonl", "queries.test.tsv", "queries.tsv"}) {
      if (fs::exists(path / name)) return "beir";
    }
    return "squad";
  }
  if (path.extension() == ".json") return "squad";
  if (path.extension() == ".csv" || path.extension() == ".tsv") return "csv";
  const std::optional<Json> row = first_row(path);
  if (row && row->contains("qid") && row->contains("question")) {
    if (row->contains("pid")) return "squad";
    if (row->contains("passage")) return "nq-gold";
  }
  return "jsonl";
}

}  // namespace

const std::vector<DatasetReader>& dataset_readers() {
  static const std::vector<DatasetReader> readers = {
      {"squad", "SQuAD 1.1/2.0 JSON, or JSON Lines of qid, pid, question, answers", read_squad},
      {"nq-gold", "JSON Lines of qid, question, answers, title, passage", read_nq_gold},
      {"beir", "BEIR or TREC: queries and relevance judgements (qrels)", read_beir},
      {"jsonl", "JSON Lines with question and any of qid, answers, gold_ids, passage",
       read_jsonl_questions},
      {"csv", "CSV or TSV with the same columns; several answers are separated by |",
       read_csv_questions},
  };
  return readers;
}

std::vector<QaExample> read_dataset(const std::string& name, const DatasetSource& source) {
  const std::string wanted = name == "auto" ? guess_reader(source) : name;
  for (const DatasetReader& reader : dataset_readers()) {
    if (wanted != reader.name) continue;
    std::vector<QaExample> examples = reader.read(source);
    QUARRY_CHECK(!examples.empty(), ErrorCode::kInvalidArgument, source.questions.string(),
                 ": no question in this set (read as ", wanted, ")");
    std::unordered_set<std::string> qids;
    for (const QaExample& example : examples) {
      QUARRY_CHECK(qids.insert(example.qid).second, ErrorCode::kInvalidArgument,
                   source.questions.string(), ": question id \"", example.qid, "\" is there twice");
    }
    return examples;
  }
  throw_error(ErrorCode::kInvalidArgument, "dataset \"", name, "\" is unknown: use one of ",
              reader_names());
}

}  // namespace quarry
