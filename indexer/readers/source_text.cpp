#include "indexer/readers/source_text.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "data/core/error.h"
#include "data/core/hash.h"
#include "data/text/utf8.h"
#include "indexer/readers/charset.h"

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

struct Utf8Count {
  int64_t broken = 0;
  int64_t beyond_ascii = 0;  // whole characters
};

Utf8Count count_utf8(const std::string& bytes) {
  Utf8Count count;
  for (size_t at = 0; at < bytes.size();) {
    bool valid = true;
    if (next_code_point(bytes, at, valid) >= 0x80 && valid) ++count.beyond_ascii;
    if (!valid) ++count.broken;
  }
  return count;
}

bool is_few(int64_t broken, const std::string& bytes) {
  return static_cast<double>(broken) <= kMaxBrokenShare * static_cast<double>(bytes.size());
}

std::optional<CleanText> from_utf16(const std::string& bytes) {
  Utf16Decoder decoder(bytes[0] == '\xfe');
  CleanText clean;
  decoder.decode(std::string_view(bytes).substr(2), clean.text);
  decoder.finish(clean.text);
  clean.replaced = decoder.replaced();
  if (clean.text.find('\0') != std::string::npos ||
      (clean.replaced > 1 && !is_few(clean.replaced, bytes))) {
    return std::nullopt;
  }
  return clean;
}

// ISO-2022 charsets write everything in ASCII bytes.
bool may_be_ascii(const std::string& charset) { return charset.compare(0, 8, "iso-2022") == 0; }

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

const char* const kNotText = "binary, or text in an unknown charset";

bool is_marked_utf16(std::string_view bytes) {
  const bool is_utf32 = bytes.substr(0, 4) == std::string_view("\xff\xfe\0\0", 4);
  const std::string_view mark = bytes.substr(0, 2);
  return (mark == "\xff\xfe" && !is_utf32) || mark == "\xfe\xff";
}

size_t byte_order_mark_size(std::string_view bytes) {
  if (bytes.substr(0, 3) == "\xef\xbb\xbf") return 3;
  return is_marked_utf16(bytes) ? 2 : 0;
}

std::optional<CleanText> clean_text(std::string bytes, const std::string& declared) {
  if (is_marked_utf16(bytes)) return from_utf16(bytes);
  if (std::memchr(bytes.data(), 0, bytes.size()) != nullptr) return std::nullopt;
  const size_t mark = byte_order_mark_size(bytes);
  const bool is_marked = mark > 0;
  bytes.erase(0, mark);
  if (is_valid_utf8(bytes) && (is_marked || !may_be_ascii(declared))) {
    return CleanText{std::move(bytes), 0, ""};
  }
  if (!declared.empty() && !is_marked) {
    auto decoded = decode_charset(bytes, declared);
    if (decoded && is_few(decoded->replaced, bytes)) {
      return CleanText{std::move(decoded->text), decoded->replaced, ""};
    }
  }
  const Utf8Count count = count_utf8(bytes);
  const bool is_utf8 = is_marked || count.beyond_ascii >= count.broken;
  if (!is_utf8 && looks_like_windows_1252(bytes)) {
    auto decoded = decode_charset(bytes, kWindows1252);
    if (decoded && decoded->replaced == 0) {
      return CleanText{std::move(decoded->text), 0, kWindows1252};
    }
  }
  if (!is_few(count.broken, bytes)) return std::nullopt;
  return CleanText{repair_utf8(bytes), count.broken, ""};
}

std::optional<ParsedDocument> read_text_file(const std::filesystem::path& path, const char* format,
                                             const ReaderOptions& options, const ReadSink& sink,
                                             const DeclaredCharset& declared) {
  std::optional<std::string> bytes = read_source(path, options, sink);
  if (!bytes) return std::nullopt;
  ParsedDocument parsed;
  Document& document = parsed.document;
  document.uri = path.string();
  document.format = format;
  document.title = path.filename().string();
  document.content_hash = sha256_hex(*bytes);
  if (sink.is_known(document.uri, document.content_hash)) return std::nullopt;
  const std::string charset = declared ? declared(*bytes) : "";
  std::optional<CleanText> clean = clean_text(std::move(*bytes), charset);
  if (!clean) {
    skip(sink, SkipKind::kUnsupported, document.uri, kNotText);
    return std::nullopt;
  }
  if (clean->replaced > 0) {
    sink.on_warning(document.uri,
                    concat(clean->replaced, " places that are not ",
                           charset.empty() ? "UTF-8" : charset.c_str(), " were replaced"));
  }
  if (!clean->assumed.empty()) {
    sink.on_warning(document.uri, assumption_text(clean->assumed));
    document.metadata[kAssumedCharset] = clean->assumed;
  }
  document.text = std::move(clean->text);
  return parsed;
}

std::string assumption_text(const std::string& charset) {
  return "is not UTF-8 and does not say what it is: read as " + charset;
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
