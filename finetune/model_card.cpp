#include "finetune/model_card.h"

#include <yaml-cpp/yaml.h>

#include <array>
#include <cmath>
#include <cstdio>

#include "data/core/error.h"

namespace quarry {
namespace {

// Text of one table cell: no line end, no column mark of its own.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c == '\n' || c == '\r' ? ' ' : c;
  }
  return out;
}

std::string code(const std::string& text) { return text.empty() ? "" : "`" + text + "`"; }

std::string decimal(double value, int digits) {
  if (!std::isfinite(value)) return "-";
  std::array<char, 64> buffer;
  std::snprintf(buffer.data(), buffer.size(), "%.*f", digits, value);
  return buffer.data();
}

std::string row_text(const std::vector<std::string>& cells) {
  std::string out = "|";
  for (const std::string& text : cells) out += " " + cell(text) + " |";
  return out + "\n";
}

std::string table(const std::string& what, const std::vector<std::string>& columns,
                  const std::vector<std::vector<std::string>>& rows) {
  std::string out = row_text(columns) + "|";
  for (size_t i = 0; i < columns.size(); ++i) out += "---|";
  out += "\n";
  for (const std::vector<std::string>& row : rows) {
    QUARRY_CHECK(row.size() == columns.size(), ErrorCode::kInvalidArgument, "model card: a row of ",
                 what, " has ", row.size(), " cells, wanted ", columns.size());
    out += row_text(row);
  }
  return out + "\n";
}

std::string front_matter(const ModelCard& card) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  out << YAML::Key << "base_model" << YAML::Value << card.base_model;
  out << YAML::Key << "library_name" << YAML::Value << "peft";
  if (!card.licence.empty()) out << YAML::Key << "license" << YAML::Value << card.licence;
  if (!card.language.empty()) out << YAML::Key << "language" << YAML::Value << card.language;
  out << YAML::Key << "pipeline_tag" << YAML::Value << card.pipeline_tag;
  out << YAML::Key << "tags" << YAML::Value << YAML::BeginSeq;
  for (const std::string& tag : card.tags) out << tag;
  out << YAML::EndSeq << YAML::EndMap;
  return concat("---\n", out.c_str(), "\n---\n\n");
}

std::string data_section(const ModelCard& card) {
  if (card.data_files.empty()) return "";
  std::vector<std::vector<std::string>> rows;
  for (const DataFileRecord& file : card.data_files) {
    rows.push_back({code(file.path), file.num_examples ? std::to_string(*file.num_examples) : "",
                    file.licence, code(file.sha256)});
  }
  return "## Training data\n\n" +
         table("the data files", {"file", "examples", "licence", "SHA-256"}, rows);
}

std::string training_section(const ModelCard& card) {
  std::string out = "## Training\n\n";
  if (!card.command.empty()) out += "```sh\n" + card.command + "\n```\n\n";
  std::vector<std::vector<std::string>> rows;
  rows.push_back({"seed", std::to_string(card.seed)});
  if (card.minutes > 0) rows.push_back({"wall time", decimal(card.minutes, 1) + " minutes"});
  if (!card.machine.empty()) rows.push_back({"machine", card.machine});
  if (!card.program_version.empty()) rows.push_back({"quarry", card.program_version});
  for (const auto& [name, value] : card.hyperparameters) rows.push_back({code(name), value});
  return out + table("the hyperparameters", {"setting", "value"}, rows);
}

std::string curve_section(const ModelCard& card) {
  if (card.learning_curve.empty()) return "";
  std::vector<std::string> columns = {"examples", "minutes"};
  columns.insert(columns.end(), card.curve_columns.begin(), card.curve_columns.end());
  std::vector<std::vector<std::string>> rows;
  for (const LearningCurveRow& point : card.learning_curve) {
    std::vector<std::string> row = {std::to_string(point.examples), decimal(point.minutes, 1)};
    for (const double value : point.values) row.push_back(decimal(value, 2));
    rows.push_back(std::move(row));
  }
  return "## Learning curve\n\n" + table("the learning curve", columns, rows);
}

}  // namespace

std::string model_card_markdown(const ModelCard& card) {
  std::string out = front_matter(card) + "# " + card.title + "\n\n";
  if (!card.description.empty()) out += card.description + "\n\n";
  out += "LoRA adapter for `" + card.base_model + "`.";
  if (!card.base_model_hash.empty()) {
    out += " Content hash of the base it was trained on: `" + card.base_model_hash + "`.";
  }
  out += "\n\n" + data_section(card) + training_section(card);
  if (!card.figures.empty()) {
    out += "## Figures\n\n" + table("the figures", card.figure_columns, card.figures);
  }
  out += curve_section(card);
  out.pop_back();  // the blank line after the last table
  return out;
}

}  // namespace quarry
