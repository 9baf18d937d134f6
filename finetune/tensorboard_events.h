#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quarry {

// Scalars of one step, as a TensorBoard Event message.
struct ScalarEvent {
  double wall_time = 0;  // seconds since 1970
  int64_t step = 0;
  std::vector<std::pair<std::string, float>> values;  // tag -> value
};

// TensorBoard's event file: TFRecord framing (uint64 length, masked CRC32C of it, data, masked
// CRC32C of the data) around Event messages of tensorflow/core/util/event.proto. Only what scalars
// need is written. One thread.
class TensorboardWriter {
 public:
  TensorboardWriter() = default;
  // Appends to the file, which is made (with its version record) when it is missing or empty.
  // Throws kUnavailable.
  explicit TensorboardWriter(const std::filesystem::path& path);
  // Flushed when it returns. Throws kUnavailable.
  void append(const ScalarEvent& event);
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::ofstream out_;
};

// Scalars of an event file; an unfinished last record is left out. Throws kNotFound; kCorruptData
// naming the byte offset of a record whose checksum or message is wrong.
std::vector<ScalarEvent> read_scalar_events(const std::filesystem::path& path);

// Cuts the file before its first record of a step > `step` or that is unfinished. Throws as
// read_scalar_events; kUnavailable.
void truncate_events(const std::filesystem::path& path, int64_t step);

// CRC-32C (Castagnoli; RFC 3720 B.4).
uint32_t crc32c(std::string_view bytes);

}  // namespace quarry
