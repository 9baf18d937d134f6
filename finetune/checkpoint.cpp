#include "finetune/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <utility>

#include "data/core/hash.h"
#include "data/core/paths.h"
#include "data/core/staged_folder.h"
#include "data/core/sync_to_disk.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "checkpoint-";
constexpr const char* kTemporary = ".tmp.";  // StagedFolder's mark
constexpr const char* kStateFile = "state.json";
constexpr const char* kParametersFile = "parameters.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr int64_t kFormatVersion = 1;

// "checkpoint-12" -> 12.
std::optional<int64_t> step_of_name(const std::string& name) {
  const size_t prefix = std::strlen(kPrefix);
  if (name.compare(0, prefix, kPrefix) != 0) return std::nullopt;
  const std::string digits = name.substr(prefix);
  if (digits.empty() || digits.size() > 18 ||
      digits.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  return std::stoll(digits);
}

// Folders that an interrupted save or removal left behind.
void remove_leftovers(const fs::path& run_folder) {
  std::error_code ignored;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(run_folder, ignored)) {
    const std::string name = entry.path().filename().string();
    const size_t mark = name.find(kTemporary);
    if (mark != std::string::npos && step_of_name(name.substr(0, mark))) {
      leftovers.push_back(entry.path());
    }
  }
  for (const fs::path& path : leftovers) fs::remove_all(path, ignored);
}

void write_tensors(const fs::path& path, const std::vector<StateTensor>& tensors) {
  std::vector<TensorToWrite> views;
  for (const StateTensor& tensor : tensors) {
    int64_t count = 1;
    for (const int64_t extent : tensor.shape) count *= extent;
    const int64_t wanted = weight_bytes(tensor.type, count);
    QUARRY_CHECK(static_cast<int64_t>(tensor.bytes.size()) == wanted, ErrorCode::kInvalidArgument,
                 "checkpoint: tensor ", tensor.name, " has ", tensor.bytes.size(),
                 " bytes, its shape wants ", wanted);
    views.push_back({tensor.name, tensor.type, tensor.shape, tensor.bytes.data()});
  }
  write_safetensors(path, views, {{"format", "pt"}});
}

std::vector<StateTensor> read_tensors(const fs::path& path) {
  std::vector<StateTensor> tensors;
  const auto file = SafetensorsFile::open(path);
  QUARRY_CHECK(file->unreadable().empty(), ErrorCode::kCorruptData, path.string(), ": tensor ",
               file->unreadable().empty() ? "" : file->unreadable().begin()->first,
               " has a type that no checkpoint holds");
  for (const TensorView& view : file->tensors()) {
    StateTensor tensor;
    tensor.name = view.name;
    tensor.type = view.type;
    tensor.shape = view.shape;
    tensor.bytes.assign(view.data, view.data + view.bytes);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

// Every file below `folder`: relative path -> {bytes, sha256}.
Json describe_files(const fs::path& folder) {
  Json files = Json::object();
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    sync_file(entry.path());
    files[entry.path().lexically_relative(folder).generic_string()] = {
        {"bytes", entry.file_size()}, {"sha256", sha256_file_hex(entry.path())}};
  }
  return files;
}

void write_folder(const fs::path& folder, const Checkpoint& checkpoint,
                  const SaveCheckpointOptions& options) {
  write_tensors(folder / kParametersFile, checkpoint.parameters);
  write_tensors(folder / kOptimizerFile, checkpoint.optimizer);
  if (options.write_more) options.write_more(folder);
  OrderedJson state;
  state["format"] = kFormatVersion;
  state["step"] = checkpoint.step;
  state["epoch"] = checkpoint.epoch;
  state["data_position"] = checkpoint.data_position;
  state["rng_state"] = checkpoint.rng_state;
  state["config_hash"] = checkpoint.config_hash;
  state["extra"] = checkpoint.extra;
  state["files"] = describe_files(folder);
  write_file_atomically(folder / kStateFile, dump_json(state, 2) + "\n");
}

void prune(const fs::path& run_folder, int64_t limit, const fs::path& kept) {
  if (limit <= 0) return;
  std::vector<fs::path> folders = list_checkpoints(run_folder);
  folders.erase(std::remove(folders.begin(), folders.end(), kept), folders.end());
  const int64_t surplus = static_cast<int64_t>(folders.size()) + 1 - limit;
  for (int64_t i = 0; i < surplus; ++i) {
    // Under the other name first: a removal cut short must not look like a checkpoint.
    const fs::path& folder = folders[static_cast<size_t>(i)];
    const fs::path removed = folder.string() + kTemporary + "removed";
    std::error_code error;
    fs::rename(folder, removed, error);
    if (!error) fs::remove_all(removed, error);
  }
}

// Files of state.json with their promised sizes; throws kCorruptData.
std::map<std::string, std::pair<uint64_t, std::string>> promised_files(const Json& state,
                                                                       const fs::path& folder) {
  const std::string source = (folder / kStateFile).string();
  const auto files = state.find("files");
  QUARRY_CHECK(files != state.end() && files->is_object(), ErrorCode::kCorruptData, source,
               ": no list of files");
  std::map<std::string, std::pair<uint64_t, std::string>> promised;
  for (const auto& [name, entry] : files->items()) {
    const bool sound = entry.is_object() && entry.contains("bytes") && entry.contains("sha256") &&
                       entry["bytes"].is_number_unsigned() && entry["sha256"].is_string();
    QUARRY_CHECK(sound && fs::path(name).is_relative() && name.find("..") == std::string::npos,
                 ErrorCode::kCorruptData, source, ": the entry of file ", name, " is damaged");
    promised[name] = {entry["bytes"].get<uint64_t>(), entry["sha256"].get<std::string>()};
  }
  for (const char* name : {kParametersFile, kOptimizerFile}) {
    QUARRY_CHECK(promised.count(name) == 1, ErrorCode::kCorruptData, source, ": file ", name,
                 " is not in the list");
  }
  return promised;
}

void check_sizes(const std::map<std::string, std::pair<uint64_t, std::string>>& promised,
                 const fs::path& folder) {
  for (const auto& [name, what] : promised) {
    std::error_code error;
    const uint64_t bytes = fs::file_size(folder / name, error);
    QUARRY_CHECK(!error && bytes == what.first, ErrorCode::kCorruptData, (folder / name).string(),
                 error ? std::string(": missing") : concat(": ", bytes, " bytes"), ", wanted ",
                 what.first, " bytes");
  }
}

bool is_complete(const fs::path& folder) {
  try {
    check_sizes(promised_files(read_json_file(folder / kStateFile), folder), folder);
    return true;
  } catch (const Error&) {
    return false;
  }
}

const Json& field(const Json& state, const char* name, const std::string& source) {
  const auto found = state.find(name);
  QUARRY_CHECK(found != state.end(), ErrorCode::kCorruptData, source, ": ", name, " is missing");
  return *found;
}

int64_t count_field(const Json& state, const char* name, const std::string& source) {
  const Json& value = field(state, name, source);
  QUARRY_CHECK(
      value.is_number_unsigned() &&
          value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()),
      ErrorCode::kCorruptData, source, ": ", name, " is ", dump_json(value), ", wanted a count");
  return value.get<int64_t>();
}

}  // namespace

fs::path save_checkpoint(const fs::path& run_folder, const Checkpoint& checkpoint,
                         const SaveCheckpointOptions& options) {
  QUARRY_CHECK(checkpoint.step >= 0 && checkpoint.epoch >= 0 && checkpoint.data_position >= 0,
               ErrorCode::kInvalidArgument, "checkpoint: step ", checkpoint.step, ", epoch ",
               checkpoint.epoch, ", data position ", checkpoint.data_position,
               ", wanted none below 0");
  const fs::path target = run_folder / concat(kPrefix, checkpoint.step);
  remove_leftovers(run_folder);
  try {
    StagedFolder staged(target);
    write_folder(staged.path(), checkpoint, options);
    staged.commit();
  } catch (const Error& error) {
    throw_error(error.code(), target.string(),
                ": not saved (earlier checkpoints are untouched): ", error.what());
  } catch (const fs::filesystem_error& error) {
    throw_error(ErrorCode::kUnavailable, target.string(),
                ": not saved (earlier checkpoints are untouched): ", error.what());
  }
  prune(run_folder, options.save_total_limit, target);
  return target;
}

std::vector<fs::path> list_checkpoints(const fs::path& run_folder) {
  std::map<int64_t, fs::path> by_step;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_folder, error)) {
    const std::optional<int64_t> step = step_of_name(entry.path().filename().string());
    if (step && entry.is_directory(error) && is_complete(entry.path())) {
      by_step[*step] = entry.path();
    }
  }
  std::vector<fs::path> folders;
  for (auto& [step, path] : by_step) folders.push_back(std::move(path));
  return folders;
}

std::optional<fs::path> latest_checkpoint(const fs::path& run_folder) {
  std::vector<fs::path> folders = list_checkpoints(run_folder);
  if (folders.empty()) return std::nullopt;
  return std::move(folders.back());
}

Checkpoint load_checkpoint(const fs::path& folder) {
  const std::string source = (folder / kStateFile).string();
  const Json state = read_json_file(folder / kStateFile);
  QUARRY_CHECK(state.is_object(), ErrorCode::kCorruptData, source, ": not a JSON object");
  const int64_t format = count_field(state, "format", source);
  QUARRY_CHECK(format == kFormatVersion, ErrorCode::kCorruptData, source, ": format ", format,
               ", wanted ", kFormatVersion);
  const auto promised = promised_files(state, folder);
  check_sizes(promised, folder);
  for (const auto& [name, what] : promised) {
    QUARRY_CHECK(sha256_file_hex(folder / name) == what.second, ErrorCode::kCorruptData,
                 (folder / name).string(), ": SHA-256 differs from that in ", kStateFile);
  }
  Checkpoint checkpoint;
  checkpoint.step = count_field(state, "step", source);
  checkpoint.epoch = count_field(state, "epoch", source);
  checkpoint.data_position = count_field(state, "data_position", source);
  const Json& rng = field(state, "rng_state", source);
  const Json& hash = field(state, "config_hash", source);
  QUARRY_CHECK(rng.is_number_unsigned() && hash.is_string(), ErrorCode::kCorruptData, source,
               ": rng_state is ", dump_json(rng), " and config_hash ", dump_json(hash),
               ", wanted a count and text");
  checkpoint.rng_state = rng.get<uint64_t>();
  checkpoint.config_hash = hash.get<std::string>();
  checkpoint.extra = field(state, "extra", source);
  checkpoint.parameters = read_tensors(folder / kParametersFile);
  checkpoint.optimizer = read_tensors(folder / kOptimizerFile);
  return checkpoint;
}

}  // namespace quarry
