#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <utility>

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

// The file that a document was read from, or nothing when it is gone. A record's uri is "path#id",
// and either may hold a '#'.
std::optional<std::filesystem::path> file_of(const std::string& uri) {
  std::error_code failure;
  for (size_t end = uri.size(); end != std::string::npos && end > 0;
       end = uri.rfind('#', end - 1)) {
    const std::filesystem::path file = uri.substr(0, end);
    if (std::filesystem::is_regular_file(file, failure)) return file;
  }
  return std::nullopt;
}

// Whether a build of what is remembered finds any of the documents again.
std::optional<ReturningDocuments> find_returning(const std::vector<Source>& sources,
                                                 const std::filesystem::path& index,
                                                 const std::string& target,
                                                 const std::vector<std::string>& uris) {
  const std::string path = normal_path(target).string();
  for (const std::string& uri : uris) {
    const auto file = file_of(uri);
    if (!file) continue;
    for (const Source& source : sources) {
      WalkOptions options;
      options.include = source.include;
      options.exclude = source.exclude;
      options.index_folder = normal_path(index);
      const bool is_below = is_under(file->string(), source.path);
      if (!is_below || !is_walked(source.path, options, *file)) continue;
      ReturningDocuments returning = {target, source, ""};
      const bool is_place = is_under(file->string(), path) && is_under(path, source.path);
      if (is_place && path != source.path) {
        returning.below_root = std::filesystem::path(path).lexically_relative(source.path).string();
      }
      return returning;
    }
  }
  return std::nullopt;
}

// A target and the documents it names.
using TargetDocuments = std::pair<std::string, std::vector<std::string>>;

// Of each target; those that are sources are taken out of `sources`.
std::vector<TargetDocuments> find_targets(const PassageStore& store, const RemoveOptions& options,
                                          std::vector<Source>& sources) {
  std::vector<TargetDocuments> targets;
  for (const std::string& target : options.targets) {
    const std::string path = normal_path(target).string();
    std::vector<std::string> found = find_documents(store, target, path);
    const auto same = [&path](const Source& source) { return source.path == path; };
    const auto forgotten = std::remove_if(sources.begin(), sources.end(), same);
    QUARRY_CHECK(!found.empty() || forgotten != sources.end(), ErrorCode::kNotFound, target,
                 ": no document of this uri or below this path in ", options.index.string());
    sources.erase(forgotten, sources.end());
    targets.emplace_back(target, std::move(found));
  }
  return targets;
}

}  // namespace

IndexReport remove_documents(const RemoveOptions& options, const CancelFlag& cancel) {
  const auto start = std::chrono::steady_clock::now();
  auto store = PassageStore::open(store_path(options.index), PassageStore::Mode::kReadWrite);
  std::vector<Source> sources = load_sources(*store);
  const size_t sources_before = sources.size();
  const std::vector<TargetDocuments> targets = find_targets(*store, options, sources);
  if (sources.size() != sources_before) {
    store->begin();
    save_sources(*store, sources);
    store->commit();
  }
  IndexOptions writer_options;
  writer_options.on_commit = options.on_commit;
  StoreWriter writer(*store, writer_options);
  IndexReport report;
  std::set<std::string> uris;
  for (const auto& [target, documents] : targets) uris.insert(documents.begin(), documents.end());
  for (const std::string& uri : uris) {
    if (cancel.cancelled()) break;
    writer.remove(uri);
  }
  writer.commit();
  for (const auto& [target, documents] : targets) {
    auto returning = find_returning(sources, options.index, target, documents);
    if (returning) report.returning.push_back(std::move(*returning));
  }
  report.documents_removed = writer.committed().removed;
  report.cancelled = cancel.cancelled();
  report.stats = store->stats();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace quarry
