#include "indexer/sources.h"

#include <algorithm>
#include <iterator>

#include "data/core/json.h"
#include "indexer/walk.h"

namespace quarry {
namespace {

constexpr const char* kSetting = "sources";

// A path that is gone while a folder above it, remembered too, is there: that folder tells what is
// left. Any other path that is gone may come back, like a disk that is not mounted.
bool is_gone_within(const Source& source, const std::vector<Source>& all) {
  std::error_code error;
  if (std::filesystem::exists(source.path, error) || error) return false;
  return std::any_of(all.begin(), all.end(), [&](const Source& folder) {
    return folder.path != source.path && is_under(source.path, folder.path) &&
           std::filesystem::is_directory(folder.path, error);
  });
}

}  // namespace

bool is_under(const std::string& uri, const std::string& path) {
  if (uri.compare(0, path.size(), path) != 0) return false;
  return uri.size() == path.size() || path == "/" || uri[path.size()] == '/' ||
         uri[path.size()] == '#';
}

std::vector<Source> load_sources(const PassageStore& store) {
  std::vector<Source> sources;
  const std::optional<std::string> text = store.setting(kSetting);
  if (!text) return sources;
  const Json root = parse_json(*text, "sources of the index", ErrorCode::kCorruptData);
  try {
    for (const Json& entry : root) {
      Source source;
      source.path = entry.at("path").get<std::string>();
      source.include = entry.at("include").get<std::vector<std::string>>();
      source.exclude = entry.at("exclude").get<std::vector<std::string>>();
      sources.push_back(std::move(source));
    }
  } catch (const Json::exception& error) {
    throw_error(ErrorCode::kCorruptData, "sources of the index are damaged: ", error.what());
  }
  return sources;
}

void save_sources(PassageStore& store, const std::vector<Source>& sources) {
  OrderedJson root = OrderedJson::array();
  for (const Source& source : sources) {
    root.push_back(
        {{"path", source.path}, {"include", source.include}, {"exclude", source.exclude}});
  }
  store.put_setting(kSetting, dump_json(root));
}

SourcePlan plan_sources(const PassageStore& store, const IndexOptions& options) {
  SourcePlan plan;
  plan.remembered = load_sources(store);
  if (options.paths.empty()) {
    QUARRY_CHECK(!plan.remembered.empty(), ErrorCode::kNotFound, options.index.string(),
                 ": no paths given and none remembered: name the files or folders to index");
    std::copy_if(plan.remembered.begin(), plan.remembered.end(), std::back_inserter(plan.chosen),
                 [&](const Source& source) { return !is_gone_within(source, plan.remembered); });
    plan.remembered = plan.chosen;
    return plan;
  }
  for (const std::filesystem::path& path : options.paths) {
    Source source;
    source.path = normal_path(path).string();
    source.include = options.include;
    source.exclude = options.exclude;
    const auto same = [&source](const Source& other) { return other.path == source.path; };
    if (std::any_of(plan.chosen.begin(), plan.chosen.end(), same)) continue;
    const auto known = std::find_if(plan.remembered.begin(), plan.remembered.end(), same);
    if (known == plan.remembered.end()) {
      plan.remembered.push_back(source);
    } else {
      *known = source;
    }
    plan.chosen.push_back(std::move(source));
  }
  return plan;
}

}  // namespace quarry
