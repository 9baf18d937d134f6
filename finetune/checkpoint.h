#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/core/json.h"
#include "finetune/state_tensor.h"

namespace quarry {

// Everything that a run needs to go on bit for bit.
struct Checkpoint {
  int64_t step = 0;           // optimizer steps taken
  int64_t epoch = 0;          // whole passes over the data
  int64_t data_position = 0;  // sequences taken of the current epoch's order
  uint64_t rng_state = 0;
  std::string config_hash;              // of what must not change across a resume
  Json extra = Json::object();          // the trainer's own values (best figure, token counts)
  std::vector<StateTensor> parameters;  // what is trained
  std::vector<StateTensor> optimizer;   // Optimizer::save()
};

struct SaveCheckpointOptions {
  int64_t save_total_limit = 2;  // older ones beyond this many are removed; 0 keeps all
  // Adds files to the folder being made (the adapter in PEFT's format). May be empty. What it
  // throws abandons the checkpoint.
  std::function<void(const std::filesystem::path& folder)> write_more;
};

// Writes `run_folder`/checkpoint-<step>/:
//   parameters.safetensors, optimizer.safetensors, state.json (the numbers above, and bytes and
//   SHA-256 of every other file)
// The folder is made under another name, its files and itself fsynced, and renamed, so it is there
// whole or not at all; one of the same step is replaced. Left-overs of an interrupted save are
// removed. Returns the folder. Throws kUnavailable naming the folder and the system's reason (full
// disk); earlier checkpoints are then untouched.
std::filesystem::path save_checkpoint(const std::filesystem::path& run_folder,
                                      const Checkpoint& checkpoint,
                                      const SaveCheckpointOptions& options = {});

// Folders of complete checkpoints (every file of state.json is there with its size), by step.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run_folder);

// The one with the highest step; incomplete ones are passed over. Nullopt when there is none.
std::optional<std::filesystem::path> latest_checkpoint(const std::filesystem::path& run_folder);

// Throws kNotFound; kCorruptData naming the file: a size or SHA-256 that state.json does not
// promise, a number out of range, a tensor of a wrong size.
Checkpoint load_checkpoint(const std::filesystem::path& folder);

}  // namespace quarry
