// Writes to an index and says what is durable, until it is done or killed:
//   crash_writer build|add INDEX PATH...    crash_writer rm INDEX PATH...
// One line on standard output for each document whose commit returned.
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "data/core/error.h"
#include "indexer/build.h"
#include "tests/indexer/fake_embedder.h"

namespace {

void say_committed(const std::vector<std::string>& uris) {
  std::string lines;
  for (const std::string& uri : uris) lines += uri + "\n";
  if (::write(STDOUT_FILENO, lines.data(), lines.size()) < 0) ::_exit(3);
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> words(arguments + 1, arguments + count);
  if (words.size() < 3) return 2;
  const std::vector<std::string> paths(words.begin() + 2, words.end());
  const quarry::CancelFlag cancel;
  try {
    if (words[0] == "rm") {
      quarry::RemoveOptions options;
      options.index = words[1];
      options.targets = paths;
      options.on_commit = say_committed;
      quarry::remove_documents(options, cancel);
      return 0;
    }
    quarry::IndexOptions options;
    options.index = words[1];
    options.paths.assign(paths.begin(), paths.end());
    options.missing = words[0] == "build" ? quarry::Missing::kRemove : quarry::Missing::kKeep;
    options.embed_batch = 8;
    options.commit_bytes = 8000;  // a commit every few documents
    options.on_commit = say_committed;
    const quarry::FakeEmbedder embedder;
    quarry::SilentProgress progress;
    quarry::build_store(options, embedder, progress, cancel);
  } catch (const quarry::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
