#pragma once

#include <filesystem>
#include <string>

namespace quarry {

// ${QUARRY_HOME:-~/.local/share/quarry}. The folder need not exist.
std::filesystem::path quarry_home();

// ${QUARRY_CACHE:-~/.cache/quarry}, or /var/tmp/quarry without a home: what can be made anew. The
// folder need not exist.
std::filesystem::path quarry_cache();

// Writes `bytes` to a temporary file beside `path`, fsyncs, renames over `path` and fsyncs the
// folder, so a reader sees the old or the new file and never a mix. Throws kUnavailable.
void write_file_atomically(const std::filesystem::path& path, const std::string& bytes);

}  // namespace quarry
