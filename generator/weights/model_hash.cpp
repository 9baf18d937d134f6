// model_content_hash and the cache of file hashes.
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "data/core/hash.h"
#include "data/core/json.h"
#include "data/core/paths.h"
#include "generator/weights/model_catalog.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kNanoseconds = 1'000'000'000;
constexpr size_t kMaxCacheBytes = size_t{16} << 20;

// SHA-256 of files, remembered between runs. Damage and missing rights only cost time.
class HashCache {
 public:
  HashCache() {
    if (!folder_) return;
    try {
      entries_ = read_json_file(path(), kMaxCacheBytes);
    } catch (const Error&) {
      // Absent or damaged: begins anew.
    }
    if (!entries_.is_object()) entries_ = Json::object();
  }

  std::string hash(const fs::path& file) {
    const std::string key = fs::absolute(file).string();
    struct stat info = {};
    const bool has_info = ::stat(key.c_str(), &info) == 0;
    const int64_t size = info.st_size;
    const int64_t modified_ns = int64_t{info.st_mtim.tv_sec} * kNanoseconds + info.st_mtim.tv_nsec;
    if (has_info && entries_.contains(key)) {
      const Json wanted = {{"size", size}, {"modified_ns", modified_ns}};
      const Json& entry = entries_[key];
      if (entry.is_object() && entry.value("size", Json()) == wanted["size"] &&
          entry.value("modified_ns", Json()) == wanted["modified_ns"] &&
          entry.value("sha256", Json()).is_string()) {
        return entry["sha256"].get<std::string>();
      }
    }
    std::string digest = sha256_file_hex(file);
    // A file written a moment ago could change again within the clock's resolution.
    const int64_t now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                               std::chrono::system_clock::now().time_since_epoch())
                               .count();
    if (has_info && now_ns - modified_ns > 2 * kNanoseconds) {
      entries_[key] = {{"size", size}, {"modified_ns", modified_ns}, {"sha256", digest}};
      changed_ = true;
    }
    return digest;
  }

  void save() {
    if (!changed_ || !folder_) return;
    try {
      Json kept = Json::object();
      std::error_code ignored;
      for (const auto& [file, entry] : entries_.items()) {
        if (fs::exists(file, ignored)) kept[file] = entry;
      }
      fs::create_directories(*folder_, ignored);
      write_file_atomically(path(), dump_json(kept, 1) + "\n");
    } catch (const Error&) {
      // Unwritable: the next run hashes again.
    }
  }

 private:
  fs::path path() const { return *folder_ / "hashes.json"; }

  const std::optional<fs::path> folder_ = quarry_cache();
  Json entries_ = Json::object();
  bool changed_ = false;
};

bool changes_behaviour(const fs::path& file) {
  const std::string name = file.filename().string();
  const std::string extension = file.extension().string();
  if (name == "data_config.json" || name == "adapter_config.json") return false;
  return extension == ".json" || extension == ".safetensors" || extension == ".model" ||
         extension == ".jinja" || name == "vocab.txt" || name == "merges.txt";
}

// Relative paths of the files of a model folder and of its direct subfolders, sorted.
std::vector<std::string> behaviour_files(const fs::path& folder) {
  std::vector<std::string> files;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error);
  for (const fs::recursive_directory_iterator end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_directory(ignored)) {
      if (it.depth() > 0) it.disable_recursion_pending();
    } else if (changes_behaviour(it->path())) {
      files.push_back(it->path().lexically_relative(folder).string());
    }
  }
  QUARRY_CHECK(!error, ErrorCode::kUnavailable, folder.string(),
               ": cannot read the folder: ", error.message());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::string model_content_hash(const ModelLocation& model) {
  HashCache cache;
  std::string digest;
  if (model.kind == ModelLocation::Kind::kGgufFile) {
    digest = cache.hash(model.path);
  } else {
    std::string lines;
    for (const std::string& file : behaviour_files(model.path)) {
      lines += file + " " + cache.hash(model.path / file) + "\n";
    }
    QUARRY_CHECK(!lines.empty(), ErrorCode::kNotFound, model.path.string(),
                 ": holds no files of a model");
    digest = sha256_hex(lines);
  }
  cache.save();
  return digest;
}

}  // namespace quarry
