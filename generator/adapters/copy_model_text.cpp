#include "generator/adapters/copy_model_text.h"

#include <string>

#include "data/core/error.h"

namespace quarry {

void copy_model_text(const std::filesystem::path& from, const std::filesystem::path& to) {
  for (const auto& entry : std::filesystem::directory_iterator(from)) {
    const std::string extension = entry.path().extension().string();
    const std::string name = entry.path().filename().string();
    const bool text = extension == ".json" || extension == ".txt" || extension == ".model" ||
                      extension == ".jinja";
    const bool weights = name.find(".index.json") != std::string::npos;
    if (!entry.is_regular_file() || !text || weights) continue;
    std::error_code error;
    std::filesystem::copy_file(entry.path(), to / name, error);
    QUARRY_CHECK(!error, ErrorCode::kUnavailable, (to / name).string(), ": ", error.message());
  }
}

}  // namespace quarry
