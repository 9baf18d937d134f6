#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quarry {

// A part of a text and whether it matched: what pre-tokenizers cut by.
struct Span {
  size_t begin = 0;
  size_t end = 0;
  bool is_match = false;
};

// A pre-tokenizer pattern in Oniguruma's Unicode syntax, run by PCRE2 (UTF, UCP, JIT). \s is
// White_Space, \w is Alphabetic, marks, decimal digits and connectors, \p{L} and \p{N} are those of
// Unicode 16. Immutable after construction; find_all may run in many threads at once.
class Regex {
 public:
  // Throws kInvalidArgument with the offset and reason when `pattern` does not compile.
  explicit Regex(const std::string& pattern);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // Appends the matches and the gaps between them, in order, covering `text` (valid UTF-8).
  void find_all(std::string_view text, std::vector<Span>& spans) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The pattern as PCRE2 gets it; for tests.
std::string translate_pattern(const std::string& pattern);

}  // namespace quarry
