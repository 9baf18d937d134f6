#include <cstdio>
#include <iostream>
#include <memory>

#include "api/answer_json.h"
#include "api/cli/command.h"
#include "api/cli/options.h"
#include "data/core/error.h"
#include "data/core/stopwatch.h"
#include "data/text/unicode.h"
#include "data/text/utf8.h"

namespace quarry::cli {
namespace {

struct SearchArguments {
  std::string index;
  std::string query;
  EmbedderFlags embedder;
  SearchFlags flags;
  bool as_json = false;
};

// First `limit` bytes of a text on one line, cut at a character border.
std::string excerpt(const std::string& text, size_t limit) {
  std::string line;
  for (char c : text) {
    if (line.size() >= limit && (static_cast<unsigned char>(c) & 0xC0) != 0x80) {
      return line + " ...";
    }
    const bool blank = c == '\n' || c == '\r' || c == '\t' || c == ' ';
    if (!blank) {
      line.push_back(c);
    } else if (!line.empty() && line.back() != ' ') {
      line.push_back(' ');
    }
  }
  return line;
}

void print_hits(const std::vector<Hit>& hits) {
  int rank = 0;
  for (const Hit& hit : hits) {
    std::printf("%2d. %.3f  %s\n", ++rank, hit.score, source_label(hit.passage).c_str());
    std::printf("    %s [%lld:%lld]\n", hit.passage.document_uri.c_str(),
                static_cast<long long>(hit.passage.start), static_cast<long long>(hit.passage.end));
    std::printf("    %s\n", excerpt(hit.passage.text, 240).c_str());
  }
}

void search(const SearchArguments& arguments, CommandContext& context) {
  const auto [begin, end] = trimmed_range(repair_utf8(arguments.query));
  QUARRY_CHECK(begin < end, ErrorCode::kInvalidArgument, "the query is empty");
  const SearchOptions options = to_search_options(arguments.flags);
  const OpenedIndex opened =
      open_index(arguments.index, options.mode != SearchMode::kLexical, arguments.embedder);
  const std::shared_ptr<const Reranker> reranker = load_reranker(arguments.flags);
  const auto start = std::chrono::steady_clock::now();
  std::vector<Hit> hits =
      opened.retriever->search(arguments.query, reranker ? candidate_search(options) : options);
  if (reranker) {
    hits = reranker->rerank(arguments.query, std::move(hits), options.top_k, nullptr);
  }
  const double search_seconds = seconds_since(start);
  if (arguments.as_json) {
    print_json(search_json(arguments.query, options.mode, hits, search_seconds));
  } else {
    print_hits(hits);
  }
  if (hits.empty()) {
    if (!context.quiet) std::cerr << "nothing found\n";
    context.exit_code = kExitNoAnswer;
  }
}

}  // namespace

void add_search_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<SearchArguments>();
  CLI::App* command = app.add_subcommand("search", "Find passages in an index");
  command->add_option("INDEX", arguments->index, "Folder made by quarry index build")->required();
  command->add_option("QUERY", arguments->query, "What to look for")->required();
  add_search_flags(*command, arguments->flags);
  add_embedder_flags(*command, arguments->embedder);
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->footer(
      "Examples\n"
      "  quarry search notes.idx \"exam dates\"\n"
      "  quarry search notes.idx \"exam dates\" --top-k 3 --mode lexical --json\n"
      "  quarry search notes.idx \"exam dates\" --filter format=markdown\n"
      "Exit status 4 when nothing is found.");
  command->callback([arguments, &context] { search(*arguments, context); });
}

}  // namespace quarry::cli
