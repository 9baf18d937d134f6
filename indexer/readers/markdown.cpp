#include <algorithm>

#include "indexer/readers/readers.h"
#include "indexer/readers/source_text.h"

namespace quarry {
namespace {

constexpr size_t kMaxIndent = 3;  // four spaces make a code block

size_t indent_of(std::string_view line) {
  const size_t indent = line.find_first_not_of(' ');
  return indent == std::string_view::npos ? line.size() : indent;
}

// Length of a run of ``` or ~~~ that opens or closes a code block, else 0.
size_t fence_length(std::string_view line) {
  const size_t indent = indent_of(line);
  if (indent > kMaxIndent || indent >= line.size()) return 0;
  const char mark = line[indent];
  if (mark != '`' && mark != '~') return 0;
  const size_t after = line.find_first_not_of(mark, indent);
  const size_t length = (after == std::string_view::npos ? line.size() : after) - indent;
  return length >= 3 ? length : 0;
}

// "## Text ##" -> level 2, "Text"; level 0 when the line is no such heading.
int atx_heading(std::string_view line, std::string& text) {
  const size_t indent = indent_of(line);
  if (indent > kMaxIndent) return 0;
  line.remove_prefix(indent);
  size_t level = line.find_first_not_of('#');
  if (level == std::string_view::npos) level = line.size();
  if (level < 1 || level > 6) return 0;
  if (level < line.size() && line[level] != ' ' && line[level] != '\t') return 0;
  std::string_view body = trim(line.substr(level));
  const size_t last = body.find_last_not_of('#');
  if (last == std::string_view::npos) {
    body = {};
  } else if (last + 1 < body.size() && (body[last] == ' ' || body[last] == '\t')) {
    body = trim(body.substr(0, last));
  }
  text = std::string(body);
  return static_cast<int>(level);
}

// "====" -> 1, "----" -> 2, else 0.
int setext_level(std::string_view line) {
  if (indent_of(line) > kMaxIndent) return 0;
  const std::string_view mark = trim(line);
  if (mark.empty() || (mark[0] != '=' && mark[0] != '-')) return 0;
  if (mark.find_first_not_of(mark[0]) != std::string_view::npos) return 0;
  return mark[0] == '=' ? 1 : 2;
}

// A line that may be the text above a setext underline.
bool is_paragraph_line(std::string_view line) {
  const std::string_view body = trim(line);
  if (body.empty() || indent_of(line) > kMaxIndent) return false;
  std::string ignored;
  if (atx_heading(line, ignored) > 0 || setext_level(line) > 0) return false;
  const bool list_item =
      (body[0] == '-' || body[0] == '*' || body[0] == '+') && body.size() > 1 && body[1] == ' ';
  return body[0] != '>' && body[0] != '|' && !list_item;
}

// Index of the first line behind a "---" front matter, or 0. A "title:" in it goes to `title`.
size_t skip_front_matter(std::string_view text, const std::vector<Line>& lines,
                         std::string& title) {
  const auto line_at = [&](size_t i) {
    return text.substr(lines[i].start, lines[i].end - lines[i].start);
  };
  if (lines.empty() || line_at(0) != "---") return 0;
  std::string found;
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::string_view line = line_at(i);
    if (line == "---" || line == "...") {
      if (!found.empty()) title = found;
      return i + 1;
    }
    if (line.substr(0, 6) == "title:") {
      std::string_view value = trim(line.substr(6));
      if (value.size() >= 2 && (value[0] == '"' || value[0] == '\'') && value.back() == value[0]) {
        value = value.substr(1, value.size() - 2);
      }
      found = std::string(value);
    }
  }
  return 0;
}

void find_headings(ParsedDocument& parsed) {
  const std::string_view text = parsed.document.text;
  const std::vector<Line> lines = split_lines(text);
  std::string front_title;
  size_t fence = 0;
  char fence_mark = 0;
  bool paragraph = false;  // the line before may be the text of a setext heading
  size_t paragraph_start = 0;
  for (size_t i = skip_front_matter(text, lines, front_title); i < lines.size(); ++i) {
    const std::string_view line = text.substr(lines[i].start, lines[i].end - lines[i].start);
    const size_t run = fence_length(line);
    if (run > 0 && (fence == 0 || (run >= fence && line[indent_of(line)] == fence_mark))) {
      fence_mark = line[indent_of(line)];
      fence = fence == 0 ? run : 0;
      paragraph = false;
      continue;
    }
    if (fence > 0) continue;
    std::string heading;
    int level = atx_heading(line, heading);
    size_t start = lines[i].start;
    if (level == 0 && paragraph) {
      level = setext_level(line);
      start = paragraph_start;
      if (level > 0) heading = std::string(trim(text.substr(start, lines[i].start - start)));
    }
    if (level > 0 && !heading.empty()) {
      std::replace(heading.begin(), heading.end(), '\n', ' ');
      parsed.headings.push_back(
          {static_cast<int64_t>(start), static_cast<int64_t>(lines[i].end), level, heading});
    }
    const bool text_line = level == 0 && is_paragraph_line(line);
    if (text_line && !paragraph) paragraph_start = lines[i].start;
    paragraph = text_line;
  }
  if (!front_title.empty()) {
    parsed.document.title = front_title;
  } else if (!parsed.headings.empty()) {
    parsed.document.title = parsed.headings.front().text;
  }
}

class MarkdownReader : public Reader {
 public:
  const char* name() const override { return "markdown"; }
  std::vector<std::string> extensions() const override { return {".md", ".markdown", ".mdown"}; }

  void read(const std::filesystem::path& path, const ReaderOptions& options,
            const ReadSink& sink) const override {
    std::optional<ParsedDocument> parsed = read_text_file(path, name(), options, sink);
    if (!parsed) return;
    find_headings(*parsed);
    sink.on_document(std::move(*parsed));
  }
};

}  // namespace

const Reader& markdown_reader() {
  static const MarkdownReader reader;
  return reader;
}

}  // namespace quarry
