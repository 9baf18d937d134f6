#include "indexer/readers/readers.h"
#include "indexer/readers/source_text.h"

namespace quarry {
namespace {

class TextReader : public Reader {
 public:
  const char* name() const override { return "text"; }
  std::vector<std::string> extensions() const override { return {".txt", ".text", ".log"}; }

  void read(const std::filesystem::path& path, const ReaderOptions& options,
            const ReadSink& sink) const override {
    std::optional<ParsedDocument> parsed = read_text_file(path, name(), options, sink);
    if (parsed) sink.on_document(std::move(*parsed));
  }
};

}  // namespace

const Reader& text_reader() {
  static const TextReader reader;
  return reader;
}

}  // namespace quarry
