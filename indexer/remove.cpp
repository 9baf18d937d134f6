#include <algorithm>
#include <chrono>
#include <set>

#include "data/core/error.h"
#include "indexer/build.h"
#include "indexer/sources.h"
#include "indexer/store_writer.h"
#include "indexer/walk.h"

namespace quarry {
namespace {

// Documents that `target` names: as it is (an uri), else as a path.
std::vector<std::string> find_documents(const PassageStore& store, const std::string& target,
                                        const std::string& path) {
  if (store.content_hash(target)) return {target};
  std::vector<std::string> uris;
  for (const auto& [uri, hash] : store.list_documents(path)) {
    if (is_under(uri, path)) uris.push_back(uri);
  }
  return uris;
}

}  // namespace

IndexReport remove_documents(const RemoveOptions& options, const CancelFlag& cancel) {
  const auto start = std::chrono::steady_clock::now();
  auto store = PassageStore::open(store_path(options.index), PassageStore::Mode::kReadWrite);
  std::set<std::string> uris;
  std::vector<Source> sources = load_sources(*store);
  const size_t sources_before = sources.size();
  for (const std::string& target : options.targets) {
    const std::string path = normal_path(target).string();
    const std::vector<std::string> found = find_documents(*store, target, path);
    const auto same = [&path](const Source& source) { return source.path == path; };
    const auto forgotten = std::remove_if(sources.begin(), sources.end(), same);
    QUARRY_CHECK(!found.empty() || forgotten != sources.end(), ErrorCode::kNotFound, target,
                 ": no document of this uri or below this path in ", options.index.string());
    sources.erase(forgotten, sources.end());
    uris.insert(found.begin(), found.end());
  }
  if (sources.size() != sources_before) {
    store->begin();
    save_sources(*store, sources);
    store->commit();
  }
  IndexOptions writer_options;
  writer_options.on_commit = options.on_commit;
  StoreWriter writer(*store, writer_options);
  IndexReport report;
  for (const std::string& uri : uris) {
    if (cancel.cancelled()) break;
    writer.remove(uri);
  }
  writer.commit();
  report.documents_removed = writer.committed().removed;
  report.cancelled = cancel.cancelled();
  report.stats = store->stats();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace quarry
