#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "data/core/error.h"
#include "data/core/hash.h"
#include "indexer/readers/readers.h"
#include "indexer/readers/source_text.h"

extern char** environ;

namespace quarry {
namespace {

using Clock = std::chrono::steady_clock;

// What a program wrote to its standard output, and how it ended.
struct ProgramOutput {
  std::string bytes;
  std::string failure;  // empty: it exited with 0
};

class SpawnActions {
 public:
  SpawnActions() { posix_spawn_file_actions_init(&actions_); }
  SpawnActions(const SpawnActions&) = delete;
  SpawnActions& operator=(const SpawnActions&) = delete;
  ~SpawnActions() { posix_spawn_file_actions_destroy(&actions_); }
  posix_spawn_file_actions_t* get() { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_;
};

// Reads until the end, the limit or the deadline; the last two give the reason.
std::string drain(int pipe, int64_t limit, Clock::time_point deadline, std::string& bytes) {
  std::array<char, 65536> buffer;
  while (true) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return "took too long and was stopped";
    pollfd wait = {pipe, POLLIN, 0};
    const int ready = ::poll(&wait, 1, static_cast<int>(left));
    if (ready < 0 && errno != EINTR) return std::strerror(errno);
    if (ready <= 0) continue;
    const ssize_t n = ::read(pipe, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::strerror(errno);
    if (n == 0) return "";
    bytes.append(buffer.data(), static_cast<size_t>(n));
    if (static_cast<int64_t>(bytes.size()) > limit) {
      return concat("gave more than ", limit, " bytes of text: the limit");
    }
  }
}

// Without a shell, so nothing in a file's name has a meaning.
ProgramOutput run_pdftotext(const std::string& path, const ReaderOptions& options) {
  ProgramOutput output;
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) {
    output.failure = std::strerror(errno);
    return output;
  }
  SpawnActions actions;
  posix_spawn_file_actions_addopen(actions.get(), 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(actions.get(), pipe[1], 1);
  posix_spawn_file_actions_addopen(actions.get(), 2, "/dev/null", O_WRONLY, 0);
  std::array<std::string, 5> words = {"pdftotext", "-enc", "UTF-8", path, "-"};
  std::array<char*, 6> arguments{};
  for (size_t i = 0; i < words.size(); ++i) arguments[i] = words[i].data();
  pid_t child = 0;
  const int spawned =
      posix_spawnp(&child, "pdftotext", actions.get(), nullptr, arguments.data(), environ);
  ::close(pipe[1]);
  if (spawned != 0) {
    ::close(pipe[0]);
    output.failure = spawned == ENOENT
                         ? "PDF needs the program pdftotext (Debian package poppler-utils)"
                         : concat("cannot start pdftotext: ", std::strerror(spawned));
    return output;
  }
  output.failure =
      drain(pipe[0], options.max_document_bytes,
            Clock::now() + std::chrono::milliseconds(options.pdf_timeout_ms), output.bytes);
  ::close(pipe[0]);
  if (!output.failure.empty()) {
    output.failure = "pdftotext " + output.failure;
    ::kill(child, SIGKILL);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (output.failure.empty() && !(WIFEXITED(status) && WEXITSTATUS(status) == 0)) {
    output.failure = WIFEXITED(status)
                         ? concat("not a readable PDF (pdftotext exit ", WEXITSTATUS(status), ")")
                         : concat("pdftotext was ended by signal ", WTERMSIG(status));
  }
  return output;
}

// Pages end with a form feed; each becomes a section "Page n".
void find_pages(ParsedDocument& parsed) {
  const std::string& text = parsed.document.text;
  int page = 1;
  for (size_t start = 0; start < text.size(); ++page) {
    const auto at = static_cast<int64_t>(start);
    parsed.headings.push_back({at, at, 1, "Page " + std::to_string(page)});
    const size_t feed = text.find('\f', start);
    start = feed == std::string::npos ? text.size() : feed + 1;
  }
}

class PdfReader : public Reader {
 public:
  const char* name() const override { return "pdf"; }
  std::vector<std::string> extensions() const override { return {".pdf"}; }

  void read(const std::filesystem::path& path, const ReaderOptions& options,
            const ReadSink& sink) const override {
    const std::optional<std::string> bytes = read_source(path, options, sink);
    if (!bytes) return;
    ParsedDocument parsed;
    Document& document = parsed.document;
    document.uri = path.string();
    document.format = name();
    document.title = path.stem().string();
    document.content_hash = sha256_hex(*bytes);
    if (sink.is_known(document.uri, document.content_hash)) return;
    ProgramOutput output = run_pdftotext(document.uri, options);
    if (!output.failure.empty()) {
      sink.on_skip({SkipKind::kUnsupported, document.uri, output.failure});
      return;
    }
    std::optional<CleanText> clean = clean_text(std::move(output.bytes));
    if (!clean || trim(clean->text).empty()) {
      sink.on_skip({SkipKind::kUnsupported, document.uri,
                    "no text in this PDF (scanned pages need OCR first)"});
      return;
    }
    document.text = std::move(clean->text);
    find_pages(parsed);
    sink.on_document(std::move(parsed));
  }
};

}  // namespace

const Reader& pdf_reader() {
  static const PdfReader reader;
  return reader;
}

}  // namespace quarry
