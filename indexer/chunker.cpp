#include "indexer/chunker.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "data/text/utf8.h"
#include "indexer/sentences.h"

namespace quarry {
namespace {

// A unit of more bytes for each token of the budget is cut without being counted first.
constexpr int64_t kMaxBytesPerToken = 64;
// Parts that a longer sentence is cut into, for a budget: small enough to fill passages evenly.
constexpr int64_t kPartsPerBudget = 8;
// A passage may end this much short of its even share to end with a paragraph.
constexpr double kParagraphReach = 0.6;

// What passages are made of: never cut again.
struct Piece {
  int64_t start = 0;
  int64_t end = 0;
  int64_t tokens = 0;
  bool starts_paragraph = false;
};

struct Section {
  int64_t start = 0;
  int64_t end = 0;
  std::string heading;
};

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

std::string join_path(const std::vector<const Heading*>& path, const std::string& title) {
  std::string joined;
  for (size_t i = 0; i < path.size(); ++i) {
    // A document's own title is often its first heading; it is kept once.
    if (i == 0 && path[i]->text == title) continue;
    if (!joined.empty()) joined += " > ";
    joined += path[i]->text;
  }
  return joined;
}

std::vector<Section> find_sections(const ParsedDocument& parsed) {
  const std::string_view text = parsed.document.text;
  std::vector<Section> sections;
  Section section;
  if (text.substr(0, 3) == "\xef\xbb\xbf") section.start = 3;
  std::vector<const Heading*> path;
  int64_t body_start = section.start;  // behind the last heading
  for (const Heading& heading : parsed.headings) {
    const auto body = text.substr(static_cast<size_t>(body_start),
                                  static_cast<size_t>(heading.start - body_start));
    if (!is_blank(body)) {
      section.end = heading.start;
      sections.push_back(section);
      section.start = heading.start;
    }
    while (!path.empty() && path.back()->level >= heading.level) path.pop_back();
    path.push_back(&heading);
    section.heading = join_path(path, parsed.document.title);
    body_start = heading.end;
  }
  section.end = static_cast<int64_t>(text.size());
  sections.push_back(section);
  return sections;
}

// Cuts one section's text into pieces of at most `budget` tokens.
class PieceCutter {
 public:
  PieceCutter(std::string_view text, const TokenCounter& count_tokens, int64_t budget)
      : text_(text),
        count_tokens_(count_tokens),
        budget_(budget),
        part_(std::max<int64_t>(budget / kPartsPerBudget, 1)) {}

  std::vector<Piece> cut(const Section& section) {
    for (const TextUnit& unit : split_sentences(text_, section.start, section.end)) {
      paragraph_ = unit.starts_paragraph;
      if (!add_whole(unit.start, unit.end, budget_)) cut_lines(unit.start, unit.end);
    }
    return std::move(pieces_);
  }

 private:
  // False when the span has more tokens than `limit`; nothing is added then.
  bool add_whole(int64_t start, int64_t end, int64_t limit) {
    if (end - start > limit * kMaxBytesPerToken) return false;
    const int64_t tokens =
        count_tokens_(text_.substr(static_cast<size_t>(start), static_cast<size_t>(end - start)));
    if (tokens > limit) return false;
    add(start, end, tokens);
    return true;
  }

  void add(int64_t start, int64_t end, int64_t tokens) {
    pieces_.push_back({start, end, tokens, paragraph_});
    paragraph_ = false;
  }

  // Calls visit(start, end) for the runs of [start, end) between bytes of `separators`.
  template <typename Visit>
  void for_each_run(int64_t start, int64_t end, const char* separators, const Visit& visit) {
    const std::string_view range = text_.substr(0, static_cast<size_t>(end));
    auto at = static_cast<size_t>(start);
    while ((at = range.find_first_not_of(separators, at)) < range.size()) {
      const size_t stop = std::min(range.find_first_of(separators, at), range.size());
      visit(static_cast<int64_t>(at), static_cast<int64_t>(stop));
      at = stop;
    }
  }

  void cut_lines(int64_t start, int64_t end) {
    for_each_run(start, end, "\r\n", [this](int64_t from, int64_t to) {
      if (!add_whole(from, to, part_)) cut_words(from, to);
    });
  }

  // Words in groups of about part_ tokens.
  void cut_words(int64_t start, int64_t end) {
    int64_t group_start = -1;
    int64_t group_end = -1;
    int64_t group_tokens = 0;
    const auto finish_group = [&] {
      if (group_start >= 0) add(group_start, group_end, group_tokens);
      group_start = -1;
      group_tokens = 0;
    };
    for_each_run(start, end, " \t\r\n\f\v", [&](int64_t from, int64_t to) {
      const bool countable = to - from <= part_ * kMaxBytesPerToken;
      const int64_t tokens = countable ? count_tokens_(text_.substr(static_cast<size_t>(from),
                                                                    static_cast<size_t>(to - from)))
                                       : budget_ + 1;
      if (group_tokens + tokens > part_) finish_group();
      if (tokens > part_) {
        cut_characters(from, to);
        return;
      }
      if (group_start < 0) group_start = from;
      group_end = to;
      group_tokens += tokens;
    });
    finish_group();
  }

  // A token is a byte at least, so part_ bytes are at most part_ tokens.
  void cut_characters(int64_t start, int64_t end) {
    for (int64_t from = start; from < end;) {
      int64_t to = from;
      while (to < end) {
        const auto length = static_cast<int64_t>(utf8_length(text_[static_cast<size_t>(to)]));
        if (to > from && to + length - from > part_) break;
        to = std::min(to + length, end);
      }
      const auto slice = text_.substr(static_cast<size_t>(from), static_cast<size_t>(to - from));
      add(from, to, count_tokens_(slice));
      from = to;
    }
  }

  std::string_view text_;
  const TokenCounter& count_tokens_;
  int64_t budget_;
  int64_t part_;
  bool paragraph_ = false;
  std::vector<Piece> pieces_;
};

// Index behind the last piece of the passage that starts at `first`: shares what is left evenly
// among as few passages as hold it, and prefers to end with a paragraph.
size_t passage_end(const std::vector<Piece>& pieces, size_t first, int64_t tokens_left,
                   int64_t budget) {
  if (tokens_left <= budget) return pieces.size();
  const int64_t passages = (tokens_left + budget - 1) / budget;
  const int64_t share = (tokens_left + passages - 1) / passages;
  int64_t sum = pieces[first].tokens;
  size_t best = first + 1;
  int64_t best_distance = std::abs(share - sum);
  size_t best_paragraph = 0;
  int64_t paragraph_distance = 0;
  for (size_t next = first + 1; next < pieces.size(); ++next) {
    const int64_t distance = std::abs(share - sum);
    if (distance <= best_distance) {
      best = next;
      best_distance = distance;
    }
    const bool far_enough =
        static_cast<double>(sum) >= kParagraphReach * static_cast<double>(share);
    if (pieces[next].starts_paragraph && far_enough &&
        (best_paragraph == 0 || distance <= paragraph_distance)) {
      best_paragraph = next;
      paragraph_distance = distance;
    }
    sum += pieces[next].tokens;
    if (sum > budget) break;
  }
  return best_paragraph > 0 ? best_paragraph : best;
}

void pack_section(const ParsedDocument& parsed, const Section& section,
                  const std::vector<Piece>& pieces, int64_t budget, int64_t overlap,
                  std::vector<Passage>& passages) {
  int64_t tokens_left = 0;
  for (const Piece& piece : pieces) tokens_left += piece.tokens;
  for (size_t first = 0; first < pieces.size();) {
    const size_t end = passage_end(pieces, first, tokens_left, budget);
    Passage passage;
    passage.document_uri = parsed.document.uri;
    passage.title = parsed.document.title;
    passage.heading = section.heading;
    passage.start = pieces[first].start;
    passage.end = pieces[end - 1].end;
    passage.text = parsed.document.text.substr(static_cast<size_t>(passage.start),
                                               static_cast<size_t>(passage.end - passage.start));
    passages.push_back(std::move(passage));
    for (size_t i = first; i < end; ++i) tokens_left -= pieces[i].tokens;
    size_t next = end;
    int64_t repeated = 0;
    while (end < pieces.size() && next > first + 1 &&
           repeated + pieces[next - 1].tokens <= overlap) {
      --next;
      repeated += pieces[next].tokens;
    }
    tokens_left += repeated;
    first = next;
  }
}

}  // namespace

std::vector<Passage> chunk_document(const ParsedDocument& parsed, const TokenCounter& count_tokens,
                                    const ChunkOptions& options) {
  std::vector<Passage> passages;
  const int64_t title_tokens = count_tokens(parsed.document.title);
  for (const Section& section : find_sections(parsed)) {
    const int64_t context = title_tokens + count_tokens(section.heading);
    const int64_t budget =
        std::max<int64_t>({options.max_tokens - context, options.max_tokens / 2, int64_t{1}});
    const std::vector<Piece> pieces =
        PieceCutter(parsed.document.text, count_tokens, budget).cut(section);
    // An overlap of more than half a passage would hardly move on.
    const int64_t overlap = std::min(options.overlap_tokens, budget / 2);
    pack_section(parsed, section, pieces, budget, overlap, passages);
  }
  return passages;
}

}  // namespace quarry
