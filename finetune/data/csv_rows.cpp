// CSV (RFC 4180), or tab-separated by the suffix .tsv, with a header row: questions with answers
// (several separated by |) and as far as known the passage, prompts and completions, or labelled
// texts.
#include <algorithm>
#include <optional>

#include "data/datasets/csv_records.h"
#include "finetune/data/prompt_template.h"
#include "finetune/data/row_fields.h"

namespace quarry {
namespace {

using Fields = std::vector<std::string>;

// Positions of the columns in the header; -1: not there.
struct Layout {
  int id = -1;
  int question = -1;
  int answer = -1;
  int context = -1;
  int title = -1;
  int prompt = -1;
  int completion = -1;
  int input = -1;  // of an instruction: follows it after a blank line
  int text = -1;
  int second = -1;
  int label = -1;
  std::vector<int> in_template;  // the columns of the prompt template, in its order

  bool is_question() const { return question >= 0 && answer >= 0 && in_template.empty(); }
  bool is_completion() const {
    return (prompt >= 0 || !in_template.empty()) && completion >= 0 && !is_question();
  }
  bool is_labelled() const { return text >= 0 && label >= 0 && !is_question() && !is_completion(); }
};

std::string quoted_list(const Fields& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "\"" : ", \"") + name + "\"";
  return list;
}

// The column called `name`, which must be there, or the first of the usual ones.
int find_column(const Fields& header, const std::string& name, const Fields& usual,
                const std::string& where) {
  for (const std::string& candidate : name.empty() ? usual : Fields{name}) {
    const auto found = std::find(header.begin(), header.end(), candidate);
    if (found != header.end()) return static_cast<int>(found - header.begin());
  }
  if (!name.empty()) {
    row_error(where, "header", "the columns " + quoted_list(header), "a column \"" + name + "\"");
  }
  return -1;
}

Layout layout_of(const Fields& header, const CsvColumns& columns,
                 const std::optional<PromptTemplate>& form, const std::string& where) {
  Layout layout;
  layout.id = find_column(header, columns.id, {"id", "qid"}, where);
  layout.question = find_column(header, columns.question, {"question", "query"}, where);
  layout.answer = find_column(header, columns.answer, {"answer", "answers"}, where);
  layout.context = find_column(header, columns.context, {"context", "passage"}, where);
  layout.title = find_column(header, columns.title, {"title"}, where);
  layout.prompt = find_column(header, columns.prompt, {"prompt", "instruction"}, where);
  layout.completion =
      find_column(header, columns.completion, {"completion", "output", "response"}, where);
  layout.text =
      find_column(header, columns.text, {"text", "sentence", "sentence1", "premise"}, where);
  layout.second = find_column(header, columns.second, {"sentence2", "hypothesis"}, where);
  layout.label = find_column(header, columns.label, {"label"}, where);
  if (layout.prompt >= 0 && header[static_cast<size_t>(layout.prompt)] == "instruction") {
    layout.input = find_column(header, "", {"input"}, where);
  }
  if (form) {
    for (const std::string& column : form->columns()) {
      layout.in_template.push_back(find_column(header, column, {}, where));
    }
  }
  if (!layout.is_question() && !layout.is_completion() && !layout.is_labelled()) {
    row_error(where, "header", "the columns " + quoted_list(header),
              "\"question\" and \"answer\", or \"prompt\" and \"completion\", or \"text\" and "
              "\"label\"");
  }
  return layout;
}

std::string field_at(const Fields& fields, int column) {
  return column < 0 ? "" : fields[static_cast<size_t>(column)];
}

std::string required_at(const Fields& fields, int column, const char* name,
                        const std::string& where, const std::string& wanted) {
  std::string text = field_at(fields, column);
  if (is_blank(text)) row_error(where, name, "an empty text", wanted);
  return text;
}

Fields split_bars(const std::string& text) {
  Fields parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('|', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

void read_question(const Fields& fields, const Layout& layout, const TrainingSet& set,
                   PassagePool& pool, TrainingRow& row) {
  row.question = required_at(fields, layout.question, "question", row.where, "the question's text");
  row.answers =
      split_bars(required_at(fields, layout.answer, "answer", row.where, "the answer to learn"));
  check_answers(row.answers, row.where);
  const std::string context = field_at(fields, layout.context);
  if (!is_blank(context)) row.passages = {pool.add(field_at(fields, layout.title), context)};
  find_gold_passage(set, row);
}

std::string prompt_of(const Fields& fields, const Layout& layout,
                      const std::optional<PromptTemplate>& form, const std::string& where) {
  if (form) {
    size_t next = 0;
    return form->fill(
        [&](const std::string&) { return field_at(fields, layout.in_template[next++]); });
  }
  const std::string prompt =
      required_at(fields, layout.prompt, "prompt", where, "the prompt's text");
  const std::string input = field_at(fields, layout.input);
  return is_blank(input) ? prompt : prompt + "\n\n" + input;
}

void read_completion(const Fields& fields, const Layout& layout,
                     const std::optional<PromptTemplate>& form, CompletionForm completion_form,
                     TrainingRow& row) {
  row.kind =
      completion_form == CompletionForm::kRaw ? TrainingRow::Kind::kRaw : TrainingRow::Kind::kChat;
  row.messages = {{"user", prompt_of(fields, layout, form, row.where)},
                  {"assistant", required_at(fields, layout.completion, "completion", row.where,
                                            "the text to learn")}};
  row.learned = {0, 1};
}

void read_labelled(const Fields& fields, const Layout& layout, TrainingRow& row) {
  row.kind = TrainingRow::Kind::kLabelled;
  row.text = required_at(fields, layout.text, "text", row.where, "the text to classify");
  if (layout.second >= 0) {
    row.second = required_at(fields, layout.second, "second", row.where, "the second text");
  }
  row.label = required_at(fields, layout.label, "label", row.where, "its label");
}

}  // namespace

void read_csv_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                   TrainingSet& set) {
  std::optional<PromptTemplate> form;
  if (!options.prompt_template.empty()) form.emplace(options.prompt_template);
  PassagePool pool(set);
  bool has_layout = false;
  Layout layout;
  for_each_csv_record(path, [&](const Fields& fields, const std::string& where) {
    if (!has_layout) {
      layout = layout_of(fields, options.columns, form, where);
      has_layout = true;
      return;
    }
    TrainingRow row;
    row.where = where;
    row.id = field_at(fields, layout.id);
    if (row.id.empty()) row.id = where;
    if (layout.is_question()) {
      read_question(fields, layout, set, pool, row);
    } else if (layout.is_completion()) {
      read_completion(fields, layout, form, options.completion_form, row);
    } else {
      read_labelled(fields, layout, row);
    }
    set.rows.push_back(std::move(row));
  });
}

}  // namespace quarry
