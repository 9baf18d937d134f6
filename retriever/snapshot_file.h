#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>

#include "data/core/json.h"
#include "data/core/mapped_file.h"

namespace quarry {

// A file of bytes that a library wrote, with a footer that says what they are and proves them
// whole:
//
//   payload            any number of bytes; a reader of the payload's own format may ignore the
//   rest header             JSON header size        8 bytes, little endian SHA-256            64
//   hexadecimal digits over everything before "QUARRYV1"         8 bytes

// Calls write_payload on a temporary file beside `path`, adds the footer, syncs and renames over
// `path`. Throws kUnavailable naming the file; then `path` is as it was.
void write_snapshot_file(const std::filesystem::path& path, const Json& header,
                         const std::function<void(std::FILE*)>& write_payload);

struct SnapshotFile {
  MappedFile file;
  Json header;
  size_t payload_bytes = 0;  // from the start of the file
};

// Throws kNotFound; kCorruptData for a footer that is missing, does not fit or does not match.
SnapshotFile read_snapshot_file(const std::filesystem::path& path);

}  // namespace quarry
