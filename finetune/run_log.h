#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/core/json.h"
#include "finetune/tensorboard_events.h"

namespace quarry {

// Figures of one step, in the order they are written.
struct MetricsRow {
  int64_t step = 0;
  std::string phase = "train";  // or "eval", or any other; the first part of TensorBoard's tags
  std::vector<std::pair<std::string, double>> values;  // "loss", "learning_rate", "tokens_per_s"
};

// The record of a run in its folder:
//   metrics.jsonl                   one line a row: {"step":3,"phase":"train","loss":1.25,...}
//   events.out.tfevents.*           the same for TensorBoard: tag "train/loss" ...
//   loss_curve.svg                  train and eval loss by step
// A figure that is not finite is null in metrics.jsonl. One thread.
class RunLog {
 public:
  // Opens or makes the log in `folder` (which exists). Rows after `resume_step` are cut off, a line
  // that a crash left unfinished too; -1 starts afresh. Throws kCorruptData naming file and line;
  // kUnavailable.
  RunLog(const std::filesystem::path& folder, int64_t resume_step);

  // Both files have the row when this returns (flushed, not fsynced). Throws kUnavailable.
  void append(const MetricsRow& row);
  // Every row kept so far, those of before a resume included.
  const std::vector<MetricsRow>& rows() const { return rows_; }
  // Throws kUnavailable.
  void write_loss_curve(const std::string& title) const;
  // fsync of both files: before a checkpoint that counts on them.
  void sync();

 private:
  std::filesystem::path folder_;
  std::vector<MetricsRow> rows_;
  std::ofstream metrics_;
  TensorboardWriter events_;
};

// A data file of a run, for the run's records.
struct DataFileRecord {
  std::string path;
  std::string sha256;
  std::optional<int64_t>
      num_examples;     // rows of it that may be learned; nothing of evaluation files
  std::string licence;  // as given; may be empty
};

// environment.json: program version, compiler, system, CPU and instruction set in use, threads,
// memory, data files. Returns what it wrote. Throws kUnavailable.
Json write_environment(const std::filesystem::path& folder, const std::string& program_version,
                       const std::vector<DataFileRecord>& data_files);

}  // namespace quarry
