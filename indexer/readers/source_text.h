#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "indexer/readers/reader.h"

namespace quarry {

// Why a file is skipped that is no text that could be read.
extern const char* const kNotText;

// The bytes of a whole file, or nothing after telling the sink why (unreadable, empty, larger than
// options.max_document_bytes).
std::optional<std::string> read_source(const std::filesystem::path& path,
                                       const ReaderOptions& options, const ReadSink& sink);

// Bytes as valid UTF-8, without a byte order mark. What is UTF-8 or, by its mark, UTF-16 is that;
// else it is what the document declares to be (declared_html_charset), else Windows-1252 where it
// looks like it. Places that are broken are replaced by U+FFFD and counted, unless they are too
// many or there are NUL bytes: then nothing.
struct CleanText {
  std::string text;
  int64_t replaced = 0;
  std::string assumed;  // the charset that nothing but the bytes speaks for; empty: none
};
std::optional<CleanText> clean_text(std::string bytes, const std::string& declared = "");
// Whether a byte order mark says UTF-16.
bool is_marked_utf16(std::string_view bytes);
// Bytes of the mark of UTF-8 or UTF-16 that they begin with.
size_t byte_order_mark_size(std::string_view bytes);
// The warning that goes with `assumed`.
std::string assumption_text(const std::string& charset);

// The charset that a document's bytes declare, as iconv names it; empty: none.
using DeclaredCharset = std::function<std::string(std::string_view bytes)>;

// read_source and clean_text for a file that is one document, with its uri, hash, format and a
// title made of the file's name. Nothing: the sink was told, or it knows the document already.
std::optional<ParsedDocument> read_text_file(const std::filesystem::path& path, const char* format,
                                             const ReaderOptions& options, const ReadSink& sink,
                                             const DeclaredCharset& declared = nullptr);

// The lines of a text with their spans; `end` is before the line break ("\n" or "\r\n").
struct Line {
  size_t start = 0;
  size_t end = 0;
};
std::vector<Line> split_lines(std::string_view text);

std::string_view trim(std::string_view text);

}  // namespace quarry
