#pragma once

#include <filesystem>

namespace quarry {

// Puts what was written to a file on the disk itself (fsync). Throws kUnavailable.
void sync_file(const std::filesystem::path& file);

// The same for the names in a folder ("" is "."), after a file was made or renamed there. Does
// nothing on file systems that cannot.
void sync_folder(const std::filesystem::path& folder);

}  // namespace quarry
