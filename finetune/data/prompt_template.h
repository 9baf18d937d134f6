#pragma once

#include <functional>
#include <string>
#include <vector>

namespace quarry {

// A prompt with columns of a row in it: "### Instruction: {instruction}\n". "{{" and "}}" stand for
// braces, as in Python's str.format and Ludwig's prompts. Immutable.
class PromptTemplate {
 public:
  // Throws kInvalidArgument for a brace without its partner and a template without a column.
  explicit PromptTemplate(const std::string& text);

  const std::vector<std::string>& columns() const { return columns_; }
  std::string fill(const std::function<std::string(const std::string& column)>& value) const;

 private:
  std::vector<std::string> texts_;    // around the columns: one more than these
  std::vector<std::string> columns_;  // in order, as often as they are named
};

// The text with its braces doubled: what a template shows as it is.
std::string escape_braces(const std::string& text);

}  // namespace quarry
