// Prompt and completion as JSON Lines: {"prompt", "completion"} (or "response"), or {"instruction",
// "input", "output"}, whose input is optional and follows the instruction after a blank line. Other
// columns by data.columns; a prompt template may put together any.
#include <optional>

#include "finetune/data/prompt_template.h"
#include "finetune/data/row_fields.h"

namespace quarry {
namespace {

// A column of the template as text.
std::string column_text(const Json& row, const std::string& column, const std::string& where) {
  const auto found = row.find(column);
  if (found == row.end()) {
    row_error(where, column, "no such field", "it, as the prompt template names it");
  }
  if (found->is_null()) return "";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

std::string prompt_text(const Json& row, const CsvColumns& columns, const std::string& where) {
  const bool is_instruction =
      columns.prompt.empty() && row.contains("instruction") && !row.contains("prompt");
  const std::string field =
      is_instruction ? "instruction" : field_or(row, columns.prompt, {"prompt"});
  std::string prompt = required_text(row, field.c_str(), where, "the prompt's text");
  const std::string input = is_instruction ? optional_text(row, "input", where) : "";
  return input.empty() ? prompt : prompt + "\n\n" + input;
}

}  // namespace

void read_completion_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                          TrainingSet& set) {
  std::optional<PromptTemplate> form;
  if (!options.prompt_template.empty()) form.emplace(options.prompt_template);
  for_each_row(path, [&](const Json& row, const std::string& where) {
    TrainingRow result;
    result.id = row_id(row, where);
    result.where = where;
    result.kind = options.completion_form == CompletionForm::kRaw ? TrainingRow::Kind::kRaw
                                                                  : TrainingRow::Kind::kChat;
    std::string prompt =
        form ? form->fill([&](const auto& column) { return column_text(row, column, where); })
             : prompt_text(row, options.columns, where);
    const bool is_instruction = row.contains("instruction") && !row.contains("prompt");
    const std::string completion = field_or(
        row, options.columns.completion,
        is_instruction ? std::initializer_list<const char*>{"output", "completion", "response"}
                       : std::initializer_list<const char*>{"completion", "output", "response"});
    result.messages = {
        {"user", std::move(prompt)},
        {"assistant", required_text(row, completion.c_str(), where, "the text to learn")}};
    result.learned = {0, 1};
    set.rows.push_back(std::move(result));
  });
}

}  // namespace quarry
