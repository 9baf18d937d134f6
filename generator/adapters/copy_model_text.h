#pragma once

#include <filesystem>

namespace quarry {

// Copies a model folder's configuration and tokenizer files, all but weights and their index.
// Throws kUnavailable as std::filesystem's copies fail.
void copy_model_text(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace quarry
