#include <algorithm>
#include <string_view>

#include "data/text/utf8.h"
#include "indexer/readers/readers.h"
#include "indexer/readers/source_text.h"

namespace quarry {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

bool looks_like_html(std::string_view head) {
  const std::string start = lower(trim(head).substr(0, 512));
  return start.compare(0, 14, "<!doctype html") == 0 || start.compare(0, 5, "<html") == 0 ||
         (start.compare(0, 5, "<?xml") == 0 && start.find("<html") != std::string::npos);
}

}  // namespace

const std::vector<const Reader*>& all_readers() {
  static const std::vector<const Reader*> readers = {
      &text_reader(), &markdown_reader(), &restructured_text_reader(),
      &html_reader(), &jsonl_reader(),    &csv_reader(),
      &tsv_reader(),  &pdf_reader(),
  };
  return readers;
}

const Reader* find_reader(const std::filesystem::path& path, std::string_view head) {
  const std::string extension = lower(path.extension().string());
  for (const Reader* reader : all_readers()) {
    const std::vector<std::string> known = reader->extensions();
    if (std::find(known.begin(), known.end(), extension) != known.end()) return reader;
  }
  if (head.substr(0, 5) == "%PDF-") return &pdf_reader();
  const bool utf16 = is_marked_utf16(head);
  if (!utf16 && head.find('\0') != std::string_view::npos) return nullptr;
  if (looks_like_html(head)) return &html_reader();
  // The last bytes may be cut inside a character.
  std::optional<CleanText> clean =
      clean_text(std::string(utf16 ? head : head.substr(0, complete_utf8_prefix(head))));
  return clean ? &text_reader() : nullptr;
}

}  // namespace quarry
