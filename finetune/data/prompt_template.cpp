#include "finetune/data/prompt_template.h"

#include "data/core/error.h"

namespace quarry {

PromptTemplate::PromptTemplate(const std::string& text) : texts_(1) {
  const auto fail = [&](size_t at, const char* what) {
    throw_error(ErrorCode::kInvalidArgument, "the prompt template has ", what, " at byte ", at,
                ", wanted {column}; write {{ and }} for braces: \"", text.substr(0, 200), "\"");
  };
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    const bool is_double = at + 1 < text.size() && text[at + 1] == c;
    if ((c == '{' || c == '}') && is_double) {
      texts_.back() += c;
      ++at;
    } else if (c == '}') {
      fail(at, "a } without its {");
    } else if (c == '{') {
      const size_t end = text.find('}', at);
      if (end == std::string::npos) fail(at, "a { without its }");
      const std::string column = text.substr(at + 1, end - at - 1);
      if (column.empty()) fail(at, "an empty {}");
      if (column.find('{') != std::string::npos) fail(at, "a { without its }");
      columns_.push_back(column);
      texts_.emplace_back();
      at = end;
    } else {
      texts_.back() += c;
    }
  }
  QUARRY_CHECK(!columns_.empty(), ErrorCode::kInvalidArgument,
               "the prompt template names no column, wanted one in braces: \"", text.substr(0, 200),
               "\"");
}

std::string PromptTemplate::fill(
    const std::function<std::string(const std::string& column)>& value) const {
  std::string text = texts_.front();
  for (size_t i = 0; i < columns_.size(); ++i) text += value(columns_[i]) + texts_[i + 1];
  return text;
}

std::string escape_braces(const std::string& text) {
  std::string escaped;
  for (const char c : text) escaped.append(c == '{' || c == '}' ? 2 : 1, c);
  return escaped;
}

}  // namespace quarry
