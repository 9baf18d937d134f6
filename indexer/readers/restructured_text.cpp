#include <algorithm>
#include <utility>

#include "data/text/utf8.h"
#include "indexer/readers/readers.h"
#include "indexer/readers/source_text.h"

namespace quarry {
namespace {

// The character of a line that is one punctuation mark repeated ("====="), else 0.
char adornment(std::string_view line) {
  constexpr std::string_view kMarks = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
  while (!line.empty() && (line.back() == ' ' || line.back() == '\t')) line.remove_suffix(1);
  if (line.size() < 2 || kMarks.find(line[0]) == std::string_view::npos) return 0;
  return line.find_first_not_of(line[0]) == std::string_view::npos ? line[0] : 0;
}

// Section titles are underlined, and may be overlined, with a punctuation mark at least as long as
// the title; each new style is one level deeper (docutils reStructuredText specification,
// "Sections").
class SectionFinder {
 public:
  explicit SectionFinder(std::string_view text) : text_(text), lines_(split_lines(text)) {}

  std::vector<Heading> find() {
    std::vector<Heading> headings;
    for (size_t i = 0; i + 1 < lines_.size(); ++i) {
      const std::string_view title = line(i);
      if (trim(title).empty() || adornment(title) != 0) continue;
      const char under = adornment(line(i + 1));
      if (under == 0) continue;
      const auto width = static_cast<int64_t>(trim(line(i + 1)).size());
      if (width < count_code_points(trim(title))) continue;
      const bool overlined = i > 0 && adornment(line(i - 1)) == under;
      // A title without an overline starts at the margin and follows a blank line.
      if (!overlined && (title[0] == ' ' || title[0] == '\t')) continue;
      if (!overlined && i > 0 && !trim(line(i - 1)).empty()) continue;
      headings.push_back({static_cast<int64_t>(lines_[overlined ? i - 1 : i].start),
                          static_cast<int64_t>(lines_[i + 1].end), level_of(under, overlined),
                          std::string(trim(title))});
      ++i;
    }
    return headings;
  }

 private:
  std::string_view line(size_t i) const {
    return text_.substr(lines_[i].start, lines_[i].end - lines_[i].start);
  }

  int level_of(char mark, bool overlined) {
    const std::pair<char, bool> style(mark, overlined);
    auto found = std::find(styles_.begin(), styles_.end(), style);
    if (found == styles_.end()) found = styles_.insert(styles_.end(), style);
    return static_cast<int>(found - styles_.begin()) + 1;
  }

  std::string_view text_;
  std::vector<Line> lines_;
  std::vector<std::pair<char, bool>> styles_;  // in order of appearance: outermost first
};

class RestructuredTextReader : public Reader {
 public:
  const char* name() const override { return "rst"; }
  std::vector<std::string> extensions() const override { return {".rst", ".rest"}; }

  void read(const std::filesystem::path& path, const ReaderOptions& options,
            const ReadSink& sink) const override {
    std::optional<ParsedDocument> parsed = read_text_file(path, name(), options, sink);
    if (!parsed) return;
    parsed->headings = SectionFinder(parsed->document.text).find();
    if (!parsed->headings.empty()) parsed->document.title = parsed->headings.front().text;
    sink.on_document(std::move(*parsed));
  }
};

}  // namespace

const Reader& restructured_text_reader() {
  static const RestructuredTextReader reader;
  return reader;
}

}  // namespace quarry
