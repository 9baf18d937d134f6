#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "indexer/readers/reader.h"

namespace quarry {

// The bytes of a whole file, or nothing after telling the sink why (unreadable, empty, larger than
// options.max_document_bytes).
std::optional<std::string> read_source(const std::filesystem::path& path,
                                       const ReaderOptions& options, const ReadSink& sink);

// Bytes as valid UTF-8. UTF-16 with a byte order mark is converted. Bytes that are not UTF-8 are
// replaced by U+FFFD and counted, unless they are too many or there are NUL bytes: then nothing.
struct CleanText {
  std::string text;
  int64_t replaced = 0;
};
std::optional<CleanText> clean_text(std::string bytes);

// read_source and clean_text for a file that is one document, with its uri, hash, format and a
// title made of the file's name. Nothing: the sink was told, or it knows the document already.
std::optional<ParsedDocument> read_text_file(const std::filesystem::path& path, const char* format,
                                             const ReaderOptions& options, const ReadSink& sink);

// The lines of a text with their spans; `end` is before the line break ("\n" or "\r\n").
struct Line {
  size_t start = 0;
  size_t end = 0;
};
std::vector<Line> split_lines(std::string_view text);

std::string_view trim(std::string_view text);

}  // namespace quarry
