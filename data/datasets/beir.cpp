// BEIR (Thakur et al. 2021, arXiv:2104.08663): queries as JSON Lines (_id, text) or as id TAB text;
// judgements as BEIR's TSV (query-id, corpus-id, score, with a header) or TREC's qrels (query-id,
// iteration, document-id, score). A folder holds queries.jsonl or queries.test.tsv, and
// qrels/test.tsv or qrels.test.txt. Questions without a judgement are left out, as trec_eval does.
#include <charconv>
#include <cmath>
#include <sstream>
#include <unordered_map>

#include "data/datasets/dataset.h"
#include "data/datasets/lines.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

using Judgements = std::unordered_map<std::string, std::map<std::string, double>>;

fs::path first_existing(const fs::path& folder, const std::vector<std::string>& names,
                        const char* what) {
  std::string tried;
  for (const std::string& name : names) {
    if (fs::is_regular_file(folder / name)) return folder / name;
    tried += tried.empty() ? name : ", " + name;
  }
  throw_error(ErrorCode::kNotFound, folder.string(), ": no ", what, " file here (looked for ",
              tried, ")");
}

double parse_score(const std::string& text, const std::string& where) {
  double score = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), score);
  QUARRY_CHECK(error == std::errc() && end == text.data() + text.size() && std::isfinite(score),
               ErrorCode::kCorruptData, where, ": score is \"", text, "\", wanted a number");
  return score;
}

Judgements read_judgements(const fs::path& path) {
  Judgements judgements;
  bool first = true;
  for_each_line(path, [&](const std::string& line, const std::string& where) {
    std::istringstream words(line);
    std::vector<std::string> fields;
    for (std::string word; words >> word;) fields.push_back(word);
    const bool header = first && !fields.empty() && fields[0] == "query-id";
    first = false;
    if (fields.empty() || header) return;
    QUARRY_CHECK(fields.size() == 3 || fields.size() == 4, ErrorCode::kCorruptData, where,
                 ": found ", fields.size(), " fields, wanted 3 (BEIR) or 4 (TREC)");
    const std::string& document = fields[fields.size() - 2];
    judgements[fields[0]][document] = parse_score(fields.back(), where);
  });
  return judgements;
}

void read_queries(const fs::path& path,
                  const std::function<void(std::string id, std::string text)>& visit) {
  if (path.extension() == ".jsonl") {
    for_each_json_line(path, [&visit](const Json& row, const std::string& where) {
      visit(text_field(row, "_id", where), text_field(row, "text", where));
    });
    return;
  }
  for_each_line(path, [&visit](const std::string& line, const std::string& where) {
    if (line.empty()) return;
    const size_t tab = line.find('\t');
    QUARRY_CHECK(tab != std::string::npos && tab > 0, ErrorCode::kCorruptData, where,
                 ": wanted a query id, a tab and the query");
    visit(line.substr(0, tab), line.substr(tab + 1));
  });
}

}  // namespace

std::vector<QaExample> read_beir(const DatasetSource& source) {
  QUARRY_CHECK(fs::exists(source.questions), ErrorCode::kNotFound, source.questions.string(),
               ": no such file or folder");
  const bool folder = fs::is_directory(source.questions);
  const fs::path base = folder ? source.questions : source.questions.parent_path();
  const fs::path queries =
      folder ? first_existing(base, {"queries.jsonl", "queries.test.tsv", "queries.tsv"}, "queries")
             : source.questions;
  const fs::path qrels =
      !source.qrels.empty()
          ? source.qrels
          : first_existing(
                base, {"qrels/test.tsv", "qrels.test.tsv", "qrels.test.txt", "qrels.txt"}, "qrels");
  const Judgements judgements = read_judgements(qrels);
  std::vector<QaExample> examples;
  read_queries(queries, [&](std::string id, std::string text) {
    const auto found = judgements.find(id);
    if (found == judgements.end()) return;
    QaExample example;
    example.qid = std::move(id);
    example.question = std::move(text);
    example.gold_ids = found->second;
    examples.push_back(std::move(example));
  });
  return examples;
}

}  // namespace quarry
