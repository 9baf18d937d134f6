#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace quarry {

// SHA-256 (FIPS 180-4) as 64 lower-case hexadecimal digits.
std::string sha256_hex(std::string_view bytes);
// Of a file's bytes, streamed. Throws kNotFound, kUnavailable.
std::string sha256_file_hex(const std::filesystem::path& path);

}  // namespace quarry
