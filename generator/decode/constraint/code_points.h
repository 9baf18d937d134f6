#pragma once

#include <initializer_list>
#include <vector>

#include "generator/decode/constraint/expr.h"

namespace quarry {

// A set of Unicode scalar values (no surrogates).
class CodePointSet {
 public:
  struct Range {
    char32_t first;
    char32_t last;  // included
  };

  CodePointSet() = default;
  CodePointSet(std::initializer_list<Range> ranges);
  static CodePointSet all();

  void add(char32_t first, char32_t last);
  void add(const CodePointSet& other);
  CodePointSet complement() const;
  CodePointSet without(const CodePointSet& other) const;

  // Sorted, apart from each other.
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

// How the characters of a text are written.
enum class TextForm {
  kPlain,       // UTF-8
  kJsonString,  // between the quotes of a JSON string: \" \\ \n ... where JSON wants an escape
};

// One character of the set. In a JSON string each has one spelling, the shortest.
Expr code_point_expr(const CodePointSet& set, TextForm form);

}  // namespace quarry
