#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace quarry {

// One question with what counts as right. `answers` may be empty (retrieval sets), so may each kind
// of gold; all text is valid UTF-8.
struct QaExample {
  std::string qid;  // unique within a set
  std::string question;
  std::vector<std::string> answers;
  std::map<std::string, double> gold_ids;  // record or document id -> gain (1 unless graded)
  std::string gold_title;
  std::string gold_text;  // the gold passage itself
};

struct DatasetSource {
  std::filesystem::path questions;  // a file, or a folder that holds the set
  std::filesystem::path qrels;      // relevance judgements; empty: beside the questions or inside
};

// One row a set: its name, what it reads in one line of help, and the function.
struct DatasetReader {
  const char* name;
  const char* help;
  std::vector<QaExample> (*read)(const DatasetSource& source);
};

const std::vector<DatasetReader>& dataset_readers();

// Reads a set with the reader of that name; "auto" guesses it from the file's first row. Throws
// kInvalidArgument for an unknown name, listing the names; kNotFound; kCorruptData as
// "file:line: what is wrong"; kInvalidArgument for a set without a question or a repeated qid.
std::vector<QaExample> read_dataset(const std::string& name, const DatasetSource& source);

// Readers, one file each.
std::vector<QaExample> read_squad(const DatasetSource& source);
std::vector<QaExample> read_nq_gold(const DatasetSource& source);
std::vector<QaExample> read_beir(const DatasetSource& source);
std::vector<QaExample> read_jsonl_questions(const DatasetSource& source);
std::vector<QaExample> read_csv_questions(const DatasetSource& source);

}  // namespace quarry
