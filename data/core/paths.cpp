#include "data/core/paths.h"

#include <cstdlib>

#include "data/core/atomic_file.h"
#include "data/core/error.h"

namespace quarry {

std::filesystem::path quarry_home() {
  if (const char* home = std::getenv("QUARRY_HOME"); home != nullptr && *home != '\0') return home;
  const char* user_home = std::getenv("HOME");
  QUARRY_CHECK(user_home != nullptr && *user_home != '\0', ErrorCode::kInvalidArgument,
               "neither QUARRY_HOME nor HOME is set: cannot tell where models live");
  return std::filesystem::path(user_home) / ".local" / "share" / "quarry";
}

std::optional<std::filesystem::path> quarry_cache() {
  if (const char* cache = std::getenv("QUARRY_CACHE"); cache != nullptr && *cache != '\0') {
    return std::filesystem::path(cache);
  }
  const char* user_home = std::getenv("HOME");
  if (user_home == nullptr || *user_home == '\0') return std::nullopt;
  return std::filesystem::path(user_home) / ".cache" / "quarry";
}

void write_file_atomically(const std::filesystem::path& path, const std::string& bytes) {
  AtomicFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

}  // namespace quarry
