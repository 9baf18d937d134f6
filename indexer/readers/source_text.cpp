#include "indexer/readers/source_text.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "data/core/error.h"
#include "data/core/hash.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

// More broken bytes than this share mean that the file is not text.
constexpr double kMaxBrokenShare = 0.1;

bool skip(const ReadSink& sink, SkipKind kind, const std::string& uri, const std::string& reason) {
  return sink.on_skip({kind, uri, reason});
}

class FileDescriptor {
 public:
  explicit FileDescriptor(const std::filesystem::path& path)
      : file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (file_ >= 0) ::close(file_);
  }
  int get() const { return file_; }

 private:
  int file_;
};

std::string from_utf16(std::string_view bytes, bool big_endian) {
  const auto unit = [&](size_t at) {
    const auto low = static_cast<unsigned char>(bytes[at + (big_endian ? 1 : 0)]);
    const auto high = static_cast<unsigned char>(bytes[at + (big_endian ? 0 : 1)]);
    return static_cast<char32_t>(high << 8 | low);
  };
  std::string text;
  for (size_t at = 2; at + 1 < bytes.size(); at += 2) {
    char32_t c = unit(at);
    if (c >= 0xD800 && c < 0xDC00 && at + 3 < bytes.size()) {
      const char32_t low = unit(at + 2);
      if (low >= 0xDC00 && low < 0xE000) {
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
        at += 2;
      }
    }
    append_utf8(text, c >= 0xD800 && c < 0xE000 ? kReplacementCharacter : c);
  }
  return text;
}

}  // namespace

std::optional<std::string> read_source(const std::filesystem::path& path,
                                       const ReaderOptions& options, const ReadSink& sink) {
  const std::string uri = path.string();
  const FileDescriptor file(path);
  struct stat info = {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) {
    skip(sink, SkipKind::kUnreadable, uri, std::strerror(errno));
    return std::nullopt;
  }
  if (!S_ISREG(info.st_mode)) {
    skip(sink, SkipKind::kUnsupported, uri, "not a regular file");
    return std::nullopt;
  }
  if (info.st_size > options.max_document_bytes) {
    skip(sink, SkipKind::kUnsupported, uri,
         concat("one document of ", info.st_size, " bytes: the limit is ",
                options.max_document_bytes, "; split it or use JSONL"));
    return std::nullopt;
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  size_t filled = 0;
  while (filled < bytes.size()) {
    const ssize_t n = ::read(file.get(), bytes.data() + filled, bytes.size() - filled);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      skip(sink, SkipKind::kUnreadable, uri, std::strerror(errno));
      return std::nullopt;
    }
    if (n == 0) break;
    filled += static_cast<size_t>(n);
  }
  bytes.resize(filled);
  if (bytes.empty()) {
    skip(sink, SkipKind::kUnsupported, uri, "empty");
    return std::nullopt;
  }
  return bytes;
}

std::optional<CleanText> clean_text(std::string bytes) {
  CleanText clean;
  if (bytes.size() >= 2 &&
      (bytes.compare(0, 2, "\xff\xfe") == 0 || bytes.compare(0, 2, "\xfe\xff") == 0)) {
    clean.text = from_utf16(bytes, bytes[0] == '\xfe');
    if (clean.text.find('\0') != std::string::npos) return std::nullopt;
    return clean;
  }
  if (std::memchr(bytes.data(), 0, bytes.size()) != nullptr) return std::nullopt;
  if (is_valid_utf8(bytes)) {
    clean.text = std::move(bytes);
    return clean;
  }
  for (size_t at = 0; at < bytes.size();) {
    bool valid = true;
    next_code_point(bytes, at, valid);
    if (!valid) ++clean.replaced;
  }
  if (static_cast<double>(clean.replaced) > kMaxBrokenShare * static_cast<double>(bytes.size())) {
    return std::nullopt;
  }
  clean.text = repair_utf8(bytes);
  return clean;
}

std::optional<ParsedDocument> read_text_file(const std::filesystem::path& path, const char* format,
                                             const ReaderOptions& options, const ReadSink& sink) {
  std::optional<std::string> bytes = read_source(path, options, sink);
  if (!bytes) return std::nullopt;
  ParsedDocument parsed;
  Document& document = parsed.document;
  document.uri = path.string();
  document.format = format;
  document.title = path.filename().string();
  document.content_hash = sha256_hex(*bytes);
  if (sink.is_known(document.uri, document.content_hash)) return std::nullopt;
  std::optional<CleanText> clean = clean_text(std::move(*bytes));
  if (!clean) {
    skip(sink, SkipKind::kUnsupported, document.uri, "binary, not text");
    return std::nullopt;
  }
  if (clean->replaced > 0) {
    sink.on_warning(document.uri,
                    concat(clean->replaced, " places that are not UTF-8 were replaced"));
  }
  document.text = std::move(clean->text);
  return parsed;
}

std::vector<Line> split_lines(std::string_view text) {
  std::vector<Line> lines;
  size_t start = 0;
  while (start < text.size()) {
    const size_t newline = text.find('\n', start);
    const size_t next = newline == std::string_view::npos ? text.size() : newline + 1;
    size_t end = newline == std::string_view::npos ? text.size() : newline;
    if (end > start && text[end - 1] == '\r') --end;
    lines.push_back({start, end});
    start = next;
  }
  return lines;
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

}  // namespace quarry
