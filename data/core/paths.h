#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace quarry {

// ${QUARRY_HOME:-~/.local/share/quarry}. The folder need not exist.
std::filesystem::path quarry_home();

// ${QUARRY_CACHE:-~/.cache/quarry}: what can be made anew; nothing without a home. The folder need
// not exist.
std::optional<std::filesystem::path> quarry_cache();

// Writes `bytes` to a temporary file beside `path`, fsyncs, renames over `path` and fsyncs the
// folder, so a reader sees the old or the new file and never a mix. Throws kUnavailable.
void write_file_atomically(const std::filesystem::path& path, const std::string& bytes);

}  // namespace quarry
