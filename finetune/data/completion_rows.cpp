// Prompt and completion as JSON Lines: {"prompt", "completion"} (or "response"), or {"instruction",
// "input", "output"}, whose input is optional and follows the instruction after a blank line.
#include "finetune/data/row_fields.h"

namespace quarry {

void read_completion_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                          TrainingSet& set) {
  for_each_row(path, [&](const Json& row, const std::string& where) {
    TrainingRow result;
    result.id = row_id(row, where);
    result.where = where;
    result.kind = options.completion_form == CompletionForm::kRaw ? TrainingRow::Kind::kRaw
                                                                  : TrainingRow::Kind::kChat;
    const bool is_instruction = row.contains("instruction") && !row.contains("prompt");
    const char* prompt_field = is_instruction ? "instruction" : "prompt";
    const char* completion_field = find_field(row, {"completion", "output", "response"});
    if (completion_field == nullptr) completion_field = is_instruction ? "output" : "completion";
    std::string prompt = required_text(row, prompt_field, where, "the prompt's text");
    const std::string input = is_instruction ? optional_text(row, "input", where) : "";
    if (!input.empty()) prompt += "\n\n" + input;
    result.messages = {
        {"user", std::move(prompt)},
        {"assistant", required_text(row, completion_field, where, "the text to learn")}};
    result.learned = {0, 1};
    set.rows.push_back(std::move(result));
  });
}

}  // namespace quarry
