// Labelled texts as JSON Lines: "text" (or "sentence"), or the pair "sentence1" and "sentence2" (or
// "premise" and "hypothesis"), and "label": a name, a whole number or a boolean.
#include "finetune/data/row_fields.h"

namespace quarry {
namespace {

std::string label_text(const Json& row, const char* field, const std::string& where) {
  const auto found = row.find(field);
  constexpr const char* kWanted = "a name, a whole number, true or false";
  if (found == row.end()) row_error(where, field, "no such field", kWanted);
  if (found->is_number_integer() || found->is_boolean()) return found->dump();
  if (!found->is_string()) row_error(where, field, found->type_name(), kWanted);
  return required_text(row, field, where, kWanted);
}

}  // namespace

void read_labelled_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                        TrainingSet& set) {
  const CsvColumns& columns = options.columns;
  for_each_row(path, [&](const Json& row, const std::string& where) {
    TrainingRow result;
    result.kind = TrainingRow::Kind::kLabelled;
    result.id = row_id(row, where);
    result.where = where;
    const std::string text =
        field_or(row, columns.text, {"text", "sentence", "sentence1", "premise"});
    const std::string second = field_or(row, columns.second, {"sentence2", "hypothesis"});
    result.text = required_text(row, text.c_str(), where, "the text to classify");
    if (!columns.second.empty() || find_field(row, {second.c_str()}) != nullptr) {
      result.second = required_text(row, second.c_str(), where, "the second text");
    }
    result.label = label_text(row, field_or(row, columns.label, {"label"}).c_str(), where);
    set.rows.push_back(std::move(result));
  });
}

}  // namespace quarry
