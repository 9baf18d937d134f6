#include <gumbo.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <unordered_set>

#include "data/core/error.h"
#include "data/text/utf8.h"
#include "indexer/readers/charset.h"
#include "indexer/readers/readers.h"
#include "indexer/readers/source_text.h"

namespace quarry {
namespace {

// gumbo frees its tree recursively and we walk it so: deeper pages are refused before the parse.
constexpr int kMaxDepth = 2000;

struct ParsedPage {
  explicit ParsedPage(const std::string& html)
      : output(gumbo_parse_with_options(&kGumboDefaultOptions, html.data(), html.size())) {}
  ParsedPage(const ParsedPage&) = delete;
  ParsedPage& operator=(const ParsedPage&) = delete;
  ~ParsedPage() {
    if (output != nullptr) gumbo_destroy_output(&kGumboDefaultOptions, output);
  }
  GumboOutput* output;
};

// Upper bound of the tree's depth: tags that are open at once, without those that a parser closes
// by itself or that hold nothing.
int nesting_bound(std::string_view html) {
  static const std::unordered_set<std::string> kNotNesting = {
      "p",   "li",     "dt",    "dd",     "tr",    "td",    "th",   "thead", "tbody", "tfoot",
      "col", "option", "br",    "hr",     "img",   "input", "meta", "link",  "area",  "base",
      "wbr", "embed",  "param", "source", "track", "a",     "html", "head",  "body"};
  int depth = 0;
  int deepest = 0;
  for (size_t at = html.find('<'); at != std::string_view::npos; at = html.find('<', at + 1)) {
    size_t name_start = at + 1;
    const bool closing = name_start < html.size() && html[name_start] == '/';
    if (closing) ++name_start;
    std::string name;
    for (size_t i = name_start; i < html.size() && name.size() < 12; ++i) {
      const char c = html[i];
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      if (!letter && !(c >= '0' && c <= '9' && !name.empty())) break;
      name += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
    if (name.empty() || kNotNesting.count(name) > 0) continue;
    depth = closing ? std::max(depth - 1, 0) : depth + 1;
    deepest = std::max(deepest, depth);
  }
  return deepest;
}

std::string attribute(const GumboNode& node, const char* name) {
  const GumboAttribute* found = gumbo_get_attribute(&node.v.element.attributes, name);
  return found == nullptr ? std::string() : std::string(found->value);
}

bool has_class(const GumboNode& node, const std::string& wanted) {
  const std::string classes = " " + attribute(node, "class") + " ";
  return classes.find(" " + wanted + " ") != std::string::npos;
}

bool is_element(const GumboNode& node) {
  return node.type == GUMBO_NODE_ELEMENT || node.type == GUMBO_NODE_TEMPLATE;
}

// Not part of what the page says.
bool is_left_out(const GumboNode& node) {
  switch (node.v.element.tag) {
    case GUMBO_TAG_SCRIPT:
    case GUMBO_TAG_STYLE:
    case GUMBO_TAG_NAV:
    case GUMBO_TAG_TEMPLATE:
    case GUMBO_TAG_NOSCRIPT:
    case GUMBO_TAG_SVG:
    case GUMBO_TAG_BUTTON:
    case GUMBO_TAG_SELECT:
    case GUMBO_TAG_IFRAME:
    case GUMBO_TAG_HEAD:
      return true;
    default:
      break;
  }
  const std::string role = attribute(node, "role");
  if (role == "navigation" || role == "search" || role == "banner" || role == "contentinfo") {
    return true;
  }
  if (gumbo_get_attribute(&node.v.element.attributes, "hidden") != nullptr) return true;
  if (attribute(node, "aria-hidden") == "true") return true;
  // What Sphinx and DocBook put around the text: paragraph signs, side bars, page links, contents.
  static const char* const kAround[] = {"headerlink", "sphinxsidebar", "navheader", "navfooter",
                                        "toc"};
  return std::any_of(std::begin(kAround), std::end(kAround),
                     [&](const char* name) { return has_class(node, name); });
}

int heading_level(GumboTag tag) {
  return tag >= GUMBO_TAG_H1 && tag <= GUMBO_TAG_H6 ? tag - GUMBO_TAG_H1 + 1 : 0;
}

bool is_inline(GumboTag tag) {
  switch (tag) {
    case GUMBO_TAG_A:
    case GUMBO_TAG_ABBR:
    case GUMBO_TAG_B:
    case GUMBO_TAG_BDI:
    case GUMBO_TAG_BDO:
    case GUMBO_TAG_BIG:
    case GUMBO_TAG_CITE:
    case GUMBO_TAG_CODE:
    case GUMBO_TAG_DATA:
    case GUMBO_TAG_DEL:
    case GUMBO_TAG_DFN:
    case GUMBO_TAG_EM:
    case GUMBO_TAG_FONT:
    case GUMBO_TAG_I:
    case GUMBO_TAG_IMG:
    case GUMBO_TAG_INS:
    case GUMBO_TAG_KBD:
    case GUMBO_TAG_LABEL:
    case GUMBO_TAG_MARK:
    case GUMBO_TAG_Q:
    case GUMBO_TAG_S:
    case GUMBO_TAG_SAMP:
    case GUMBO_TAG_SMALL:
    case GUMBO_TAG_SPAN:
    case GUMBO_TAG_STRIKE:
    case GUMBO_TAG_STRONG:
    case GUMBO_TAG_SUB:
    case GUMBO_TAG_SUP:
    case GUMBO_TAG_TIME:
    case GUMBO_TAG_TT:
    case GUMBO_TAG_U:
    case GUMBO_TAG_VAR:
    case GUMBO_TAG_WBR:
      return true;
    default:
      return false;
  }
}

// Writes a page as plain text: blocks on lines of their own, a blank line between paragraphs,
// "- " before list items, tabs between cells, <pre> as it stands.
class TextWriter {
 public:
  explicit TextWriter(ParsedDocument& parsed) : parsed_(parsed), text_(parsed.document.text) {}

  void write(const GumboNode& node) {
    if (node.type == GUMBO_NODE_TEXT || node.type == GUMBO_NODE_WHITESPACE ||
        node.type == GUMBO_NODE_CDATA) {
      write_text(node.v.text.text);
    } else if (is_element(node) && !is_left_out(node)) {
      write_element(node);
    }
  }

  void write_children(const GumboNode& node) {
    const GumboVector& children = node.v.element.children;
    for (unsigned i = 0; i < children.length; ++i) {
      write(*static_cast<const GumboNode*>(children.data[i]));
    }
  }

 private:
  void write_element(const GumboNode& node) {
    const GumboTag tag = node.v.element.tag;
    if (tag == GUMBO_TAG_BR) {
      break_lines(1);
    } else if (tag == GUMBO_TAG_TD || tag == GUMBO_TAG_TH) {
      if (!at_line_start()) text_ += '\t';
      write_children(node);
    } else if (const int level = heading_level(tag); level > 0) {
      write_heading(node, level);
    } else if (is_inline(tag)) {
      write_children(node);
    } else {
      write_block(node, tag);
    }
  }

  void write_block(const GumboNode& node, GumboTag tag) {
    const bool paragraph = tag == GUMBO_TAG_P || tag == GUMBO_TAG_PRE || tag == GUMBO_TAG_UL ||
                           tag == GUMBO_TAG_OL || tag == GUMBO_TAG_DL || tag == GUMBO_TAG_TABLE ||
                           tag == GUMBO_TAG_BLOCKQUOTE || tag == GUMBO_TAG_SECTION;
    const int lines = paragraph ? 2 : 1;
    break_lines(lines);
    if (tag == GUMBO_TAG_LI) {
      start_line();
      text_ += "- ";
    }
    preformatted_ += tag == GUMBO_TAG_PRE ? 1 : 0;
    write_children(node);
    preformatted_ -= tag == GUMBO_TAG_PRE ? 1 : 0;
    break_lines(lines);
  }

  void write_heading(const GumboNode& node, int level) {
    if (in_heading_) {  // one inside another: part of the outer
      write_children(node);
      return;
    }
    break_lines(2);
    start_line();
    const size_t start = text_.size();
    in_heading_ = true;
    write_children(node);
    in_heading_ = false;
    while (text_.size() > start && text_.back() == ' ') text_.pop_back();
    if (text_.size() > start) {
      parsed_.headings.push_back({static_cast<int64_t>(start), static_cast<int64_t>(text_.size()),
                                  level, text_.substr(start)});
    }
    break_lines(2);
  }

  void write_text(const char* text) {
    if (preformatted_ > 0 && !in_heading_) {
      start_line();
      text_ += text;
      return;
    }
    for (const char* c = text; *c != '\0'; ++c) {
      if (std::strchr(" \t\r\n\f", *c) != nullptr) {
        if (!at_line_start() && text_.back() != ' ' && text_.back() != '\t') text_ += ' ';
      } else {
        start_line();
        text_ += *c;
      }
    }
  }

  // Line breaks are owed until the next text, so that blocks without text leave no blank lines.
  void break_lines(int lines) {
    if (in_heading_) {
      if (!at_line_start() && text_.back() != ' ') text_ += ' ';
      return;
    }
    owed_lines_ = std::max(owed_lines_, lines);
  }

  bool at_line_start() const { return owed_lines_ > 0 || text_.empty() || text_.back() == '\n'; }

  void start_line() {
    if (owed_lines_ == 0) return;
    while (!text_.empty() && (text_.back() == ' ' || text_.back() == '\t')) text_.pop_back();
    int present = 0;
    while (present < 2 && text_.size() > static_cast<size_t>(present) &&
           text_[text_.size() - 1 - static_cast<size_t>(present)] == '\n') {
      ++present;
    }
    if (!text_.empty()) {
      for (; present < owed_lines_; ++present) text_ += '\n';
    }
    owed_lines_ = 0;
  }

  ParsedDocument& parsed_;
  std::string& text_;
  int preformatted_ = 0;
  int owed_lines_ = 0;
  bool in_heading_ = false;
};

// The first element that `accept` takes, in document order; null: none.
template <typename Accept>
const GumboNode* find_element(const GumboNode& node, const Accept& accept) {
  if (!is_element(node)) return nullptr;
  if (accept(node)) return &node;
  const GumboVector& children = node.v.element.children;
  for (unsigned i = 0; i < children.length; ++i) {
    const auto& child = *static_cast<const GumboNode*>(children.data[i]);
    if (const GumboNode* found = find_element(child, accept)) return found;
  }
  return nullptr;
}

std::string page_title(const GumboNode& root) {
  const GumboNode* title = find_element(
      root, [](const GumboNode& node) { return node.v.element.tag == GUMBO_TAG_TITLE; });
  if (title == nullptr || title->v.element.children.length == 0) return "";
  const auto& text = *static_cast<const GumboNode*>(title->v.element.children.data[0]);
  if (text.type != GUMBO_NODE_TEXT) return "";
  std::string joined;
  for (const char c : std::string(trim(text.v.text.text))) {
    const bool space = std::strchr(" \t\r\n\f", c) != nullptr;
    if (!space) joined += c;
    if (space && !joined.empty() && joined.back() != ' ') joined += ' ';
  }
  return joined;
}

void convert_page(const std::string& html, ParsedDocument& parsed) {
  const ParsedPage page(html);
  QUARRY_CHECK(page.output != nullptr, ErrorCode::kInternal, parsed.document.uri,
               ": the HTML parser gave nothing");
  const GumboNode& root = *page.output->root;
  parsed.document.text.clear();
  const GumboNode* main = find_element(root, [](const GumboNode& node) {
    return node.v.element.tag == GUMBO_TAG_MAIN || attribute(node, "role") == "main";
  });
  TextWriter(parsed).write_children(main != nullptr ? *main : root);
  const std::string title = page_title(root);
  if (!title.empty()) {
    parsed.document.title = title;
  } else if (!parsed.headings.empty()) {
    parsed.document.title = parsed.headings.front().text;
  }
}

class HtmlReader : public Reader {
 public:
  const char* name() const override { return "html"; }
  std::vector<std::string> extensions() const override { return {".html", ".htm", ".xhtml"}; }

  void read(const std::filesystem::path& path, const ReaderOptions& options,
            const ReadSink& sink) const override {
    std::optional<ParsedDocument> parsed =
        read_text_file(path, name(), options, sink, declared_html_charset);
    if (!parsed) return;
    const std::string html = std::move(parsed->document.text);
    if (nesting_bound(html) > kMaxDepth) {
      sink.on_skip({SkipKind::kUnsupported, parsed->document.uri,
                    concat("elements nested more than ", kMaxDepth, " deep")});
      return;
    }
    convert_page(html, *parsed);
    // A character reference can make what is not a character; spans of headings then move.
    if (!is_valid_utf8(parsed->document.text)) {
      parsed->document.text = repair_utf8(parsed->document.text);
      parsed->headings.clear();
    }
    if (trim(parsed->document.text).empty()) {
      sink.on_skip({SkipKind::kUnsupported, parsed->document.uri, "no text on this page"});
      return;
    }
    sink.on_document(std::move(*parsed));
  }
};

}  // namespace

const Reader& html_reader() {
  static const HtmlReader reader;
  return reader;
}

}  // namespace quarry
