#include "data/core/system_memory.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

namespace quarry {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

int64_t meminfo_available() {
  std::ifstream file("/proc/meminfo");
  std::string name;
  int64_t kilobytes = 0;
  std::string unit;
  while (file >> name >> kilobytes) {
    if (name == "MemAvailable:") return kilobytes * 1024;
    std::getline(file, unit);
  }
  return kUnknown;
}

// The number in a file; kUnknown for "max" and where there is no file.
int64_t read_number(const std::filesystem::path& path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : kUnknown;
}

// A value of "name value" lines.
int64_t read_entry(const std::filesystem::path& path, const std::string& wanted) {
  std::ifstream file(path);
  std::string name;
  int64_t value = 0;
  while (file >> name >> value) {
    if (name == wanted) return value;
  }
  return 0;
}

// What the groups from `group` up to `root` leave.
int64_t left_in_groups(const std::filesystem::path& root, std::filesystem::path group, bool is_v2) {
  int64_t left = kUnknown;
  for (;;) {
    const std::filesystem::path folder = root / group;
    const int64_t limit = read_number(folder / (is_v2 ? "memory.max" : "memory.limit_in_bytes"));
    const int64_t used = read_number(folder / (is_v2 ? "memory.current" : "memory.usage_in_bytes"));
    if (limit != kUnknown && used != kUnknown) {
      // Pages of files are given back before anything else is.
      const int64_t files = read_entry(folder / "memory.stat", is_v2 ? "file" : "total_cache");
      left = std::min(left, std::max<int64_t>(0, limit - std::max<int64_t>(0, used - files)));
    }
    if (group.empty()) return left;
    group = group.parent_path();
  }
}

}  // namespace

int64_t available_memory() {
  int64_t available = meminfo_available();
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // "number:controllers:/path"
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos || second + 1 >= line.size()) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::filesystem::path group = line.substr(second + 2);  // relative
    if (controllers.empty()) {
      available = std::min(available, left_in_groups("/sys/fs/cgroup", group, true));
    } else if (controllers == "memory") {
      available = std::min(available, left_in_groups("/sys/fs/cgroup/memory", group, false));
    }
  }
  return available;
}

}  // namespace quarry
