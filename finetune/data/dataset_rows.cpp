// Questions of the evaluation sets' readers (data/datasets) as training rows: SQuAD, whose JSON
// Lines keep passages in files of their own, and Natural Questions with the gold passage inside.
#include <unordered_map>
#include <unordered_set>

#include "data/datasets/dataset.h"
#include "data/datasets/lines.h"
#include "finetune/data/row_fields.h"
#include "finetune/data/treebank_text.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

using IndexOfPid = std::unordered_map<std::string, int32_t>;

// Files of pid, title and text that belong to the questions; none when the set has none.
std::vector<fs::path> passage_files(const fs::path& questions, const fs::path& wanted) {
  if (!wanted.empty()) return dataset_files(wanted, "passages", ".jsonl");
  const fs::path folder = fs::is_directory(questions) ? questions : questions.parent_path();
  try {
    return dataset_files(folder.empty() ? "." : folder, "passages", ".jsonl");
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound) throw;
    return {};
  }
}

IndexOfPid read_passages(const std::vector<fs::path>& files, const std::vector<QaExample>& examples,
                         PassagePool& pool) {
  std::unordered_set<std::string> wanted;
  for (const QaExample& example : examples) {
    for (const auto& gold : example.gold_ids) wanted.insert(gold.first);
  }
  IndexOfPid index_of;
  for (const fs::path& file : files) {
    for_each_json_line(file, [&](const Json& row, const std::string& where) {
      const std::string pid = text_field(row, "pid", where);
      if (wanted.count(pid) == 0) return;
      index_of[pid] = pool.add(optional_text(row, "title", where),
                               required_text(row, "text", where, "the passage's text"));
    });
  }
  return index_of;
}

TrainingRow row_of(const fs::path& path, QaExample&& example) {
  TrainingRow row;
  row.where = concat(path.string(), ": question ", example.qid);
  row.id = std::move(example.qid);
  row.question = std::move(example.question);
  if (is_blank(row.question)) {
    row_error(row.where, "question", "an empty text", "the question's text");
  }
  row.answers = std::move(example.answers);
  check_answers(row.answers, row.where);
  for (auto& gold : example.gold_ids) row.gold_ids.push_back(gold.first);
  return row;
}

// UDA-Benchmark's answers to Natural Questions (ids "uda-...") are empty for a third of the rows,
// and in running text one token too long: a punctuation mark ("Donald Bradman,", "Pom Klementieff
// (") or the next word ("Robert Parish broke"). A mark is taken off; where a word cannot be told
// from the answer's own the row is left out. Returns why, or nothing.
const char* mend_uda_answer(std::string& answer) {
  const auto trim = [&answer](const char* marks) {
    answer.erase(answer.find_last_not_of(marks) + 1);
  };
  if (is_blank(answer)) return "the set gives no answer";
  trim(" ");
  const bool had_mark = std::string(",;:.(").find(answer.back()) != std::string::npos;
  if (had_mark) answer.pop_back();
  trim(" ");
  if (answer.empty()) return "the set gives no answer";
  const size_t blank = answer.rfind(' ');
  const bool ends_lower =
      blank != std::string::npos && answer[blank + 1] >= 'a' && answer[blank + 1] <= 'z';
  return !had_mark && ends_lower ? "the set's answer may hold a word too many" : nullptr;
}

}  // namespace

void read_squad_rows(const fs::path& path, const TrainingReadOptions& options, TrainingSet& set) {
  std::vector<QaExample> examples = read_squad({path, {}});
  PassagePool pool(set);
  const std::vector<fs::path> files = passage_files(path, options.squad_passages);
  const IndexOfPid index_of = read_passages(files, examples, pool);
  for (QaExample& example : examples) {
    const std::string title = example.gold_title;
    const std::string text = example.gold_text;
    TrainingRow row = row_of(path, std::move(example));
    if (!text.empty()) row.passages = {pool.add(title, text)};
    for (const std::string& pid : row.gold_ids) {
      const auto found = index_of.find(pid);
      if (found != index_of.end()) {
        row.passages.push_back(found->second);
      } else if (!files.empty()) {
        row_error(row.where, "pid", "\"" + pid + "\"",
                  "a passage of " + files.front().parent_path().string());
      }
    }
    find_gold_passage(set, row);
    set.rows.push_back(std::move(row));
  }
}

void read_nq_gold_rows(const fs::path& path, const TrainingReadOptions& /*options*/,
                       TrainingSet& set) {
  PassagePool pool(set);
  for (QaExample& example : read_nq_gold({path, {}})) {
    const char* unusable = nullptr;
    if (example.qid.compare(0, 4, "uda-") == 0) {
      for (std::string& answer : example.answers) {
        if (unusable == nullptr) unusable = mend_uda_answer(answer);
      }
    }
    if (unusable != nullptr) {
      ++set.skipped[unusable];
      continue;
    }
    const std::string title = from_treebank_tokens(example.gold_title);
    const std::string text = from_treebank_tokens(example.gold_text);
    TrainingRow row = row_of(path, std::move(example));
    if (row.answers.empty()) row_error(row.where, "answers", "none", "an answer to learn");
    for (std::string& answer : row.answers) answer = from_treebank_tokens(answer);
    row.passages = {pool.add(title, text)};
    find_gold_passage(set, row);
    set.rows.push_back(std::move(row));
  }
}

}  // namespace quarry
