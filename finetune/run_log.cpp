#include "finetune/run_log.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <thread>

#include "data/core/cpu_isa.h"
#include "data/core/parallel_for.h"
#include "data/core/paths.h"
#include "data/core/sync_to_disk.h"
#include "finetune/loss_curve_svg.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMetricsFile = "metrics.jsonl";
constexpr const char* kEventsPrefix = "events.out.tfevents.";
constexpr const char* kCurveFile = "loss_curve.svg";
constexpr const char* kEnvironmentFile = "environment.json";

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string to_line(const MetricsRow& row) {
  OrderedJson json;
  json["step"] = row.step;
  json["phase"] = row.phase;
  for (const auto& [name, value] : row.values) {
    json[name] = std::isfinite(value) ? OrderedJson(value) : OrderedJson();
  }
  return dump_json(json) + "\n";
}

MetricsRow from_line(const std::string& line, const std::string& where) {
  const auto refuse = [&](const char* what) {
    throw_error(ErrorCode::kCorruptData, where, ": ", what);
  };
  OrderedJson json;
  try {
    json = OrderedJson::parse(line);
  } catch (const OrderedJson::exception&) {
    refuse("not a JSON object");
  }
  if (!json.is_object()) refuse("not a JSON object");
  MetricsRow row;
  if (!json.contains("step") || !json["step"].is_number_integer())
    refuse("no whole number \"step\"");
  if (!json.contains("phase") || !json["phase"].is_string()) refuse("no text \"phase\"");
  for (const auto& [name, value] : json.items()) {
    if (name == "step") {
      row.step = value.get<int64_t>();
    } else if (name == "phase") {
      row.phase = value.get<std::string>();
    } else if (value.is_number() || value.is_null()) {
      row.values.emplace_back(
          name, value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>());
    } else {
      refuse("a figure that is not a number");
    }
  }
  return row;
}

// Rows up to `last_step`; the file is cut to them.
std::vector<MetricsRow> cut_metrics(const fs::path& path, int64_t last_step) {
  std::vector<MetricsRow> rows;
  std::ifstream in(path, std::ios::binary);
  std::string kept;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (in.eof()) break;  // without its line end: a crash cut it short
    MetricsRow row = from_line(line, concat(path.string(), ":", number));
    if (row.step > last_step) continue;
    kept += line + "\n";
    rows.push_back(std::move(row));
  }
  in.close();
  write_file_atomically(path, kept);
  return rows;
}

std::vector<fs::path> event_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.compare(0, std::strlen(kEventsPrefix), kEventsPrefix) == 0) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

// The event file to append to: that of before, cut, or a new one.
fs::path open_events(const fs::path& folder, int64_t resume_step) {
  std::vector<fs::path> files = event_files(folder);
  if (resume_step < 0) {
    for (const fs::path& file : files) fs::remove(file);
    files.clear();
  }
  for (const fs::path& file : files) truncate_events(file, resume_step);
  if (!files.empty()) return files.back();
  return folder / concat(kEventsPrefix, static_cast<int64_t>(seconds_since_1970()), ".quarry");
}

// Value of the first line "key : value" of a file of /proc; empty without one.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

}  // namespace

RunLog::RunLog(const fs::path& folder, int64_t resume_step) : folder_(folder) {
  const fs::path metrics = folder / kMetricsFile;
  std::error_code error;
  if (resume_step < 0) {
    write_file_atomically(metrics, "");
  } else if (fs::exists(metrics, error)) {
    rows_ = cut_metrics(metrics, resume_step);
  }
  events_ = TensorboardWriter(open_events(folder, resume_step));
  metrics_.open(metrics, std::ios::binary | std::ios::app);
  QUARRY_CHECK(metrics_, ErrorCode::kUnavailable, metrics.string(),
               ": cannot open it for writing: ", std::strerror(errno));
}

void RunLog::append(const MetricsRow& row) {
  metrics_ << to_line(row) << std::flush;
  QUARRY_CHECK(metrics_, ErrorCode::kUnavailable, (folder_ / kMetricsFile).string(),
               ": cannot write: ", std::strerror(errno));
  ScalarEvent event;
  event.wall_time = seconds_since_1970();
  event.step = row.step;
  for (const auto& [name, value] : row.values) {
    event.values.emplace_back(row.phase + "/" + name, static_cast<float>(value));
  }
  events_.append(event);
  rows_.push_back(row);
}

void RunLog::write_loss_curve(const std::string& title) const {
  LossCurve curve;
  curve.title = title;
  for (const MetricsRow& row : rows_) {
    for (const auto& [name, value] : row.values) {
      if (name != "loss") continue;
      if (row.phase == "train") curve.train.emplace_back(row.step, value);
      if (row.phase == "eval") curve.eval.emplace_back(row.step, value);
    }
  }
  write_file_atomically(folder_ / kCurveFile, loss_curve_svg(curve));
}

void RunLog::sync() {
  sync_file(folder_ / kMetricsFile);
  sync_file(events_.path());
}

Json write_environment(const fs::path& folder, const std::string& program_version,
                       const std::vector<DataFileRecord>& data_files) {
  OrderedJson environment;
  environment["program_version"] = program_version;
  environment["compiler"] = __VERSION__;
  utsname system = {};
  if (::uname(&system) == 0) {
    environment["system"] = concat(system.sysname, " ", system.release, " ", system.machine);
  }
  environment["cpu"] = proc_value("/proc/cpuinfo", "model name");
  environment["cpu_isa"] = cpu_isa_name(cpu_isa());
  environment["threads"] = num_threads();
  environment["hardware_threads"] = std::thread::hardware_concurrency();
  environment["memory"] = proc_value("/proc/meminfo", "MemTotal");
  environment["data_files"] = OrderedJson::array();
  for (const DataFileRecord& file : data_files) {
    OrderedJson json = {{"path", file.path}, {"sha256", file.sha256}};
    if (file.num_examples) json["num_examples"] = *file.num_examples;
    json["licence"] = file.licence;
    environment["data_files"].push_back(std::move(json));
  }
  const std::string text = dump_json(environment, 2);
  write_file_atomically(folder / kEnvironmentFile, text + "\n");
  return parse_json(text, kEnvironmentFile, ErrorCode::kInternal);
}

}  // namespace quarry
