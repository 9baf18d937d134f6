#include "api/http/auth.h"

#include <cctype>
#include <fstream>

#include "api/http/server.h"
#include "data/core/error.h"

namespace quarry {
namespace http {
namespace {

bool equal_in_constant_time(const std::string& given, const std::string& key) {
  size_t difference = given.size() ^ key.size();
  for (size_t i = 0; i < given.size(); ++i) {
    const char expected = key.empty() ? '\0' : key[i % key.size()];
    difference |= static_cast<unsigned char>(given[i] ^ expected);
  }
  return difference == 0;
}

bool is_bearer(const std::string& authorization) {
  static const char kScheme[] = "bearer ";
  if (authorization.size() < sizeof(kScheme) - 1) return false;
  for (size_t i = 0; i + 1 < sizeof(kScheme); ++i) {
    if (std::tolower(static_cast<unsigned char>(authorization[i])) != kScheme[i]) return false;
  }
  return true;
}

ApiError unauthorized(const std::string& message) {
  ApiError error(401, message);
  error.code = "invalid_api_key";
  return error;
}

}  // namespace

std::optional<ApiError> check_api_key(const std::vector<std::string>& keys,
                                      const std::string& authorization) {
  if (keys.empty()) return std::nullopt;
  if (!is_bearer(authorization)) {
    return unauthorized("this server asks for an API key: send 'Authorization: Bearer KEY'");
  }
  const std::string given = authorization.substr(7);
  bool known = false;
  for (const std::string& key : keys) known |= equal_in_constant_time(given, key);
  if (known) return std::nullopt;
  return unauthorized("the API key that was sent is not one of this server's keys");
}

}  // namespace http

std::vector<std::string> load_api_keys(const std::filesystem::path& path) {
  std::ifstream file(path);
  QUARRY_CHECK(file.good(), ErrorCode::kNotFound, path.string(), ": no such API key file");
  std::vector<std::string> keys;
  std::string line;
  for (int64_t number = 1; std::getline(file, line); ++number) {
    const size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos || line[first] == '#') continue;
    const std::string key = line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
    for (const char byte : key) {
      QUARRY_CHECK(byte > ' ' && byte != '\x7f', ErrorCode::kInvalidArgument, path.string(), ":",
                   number, ": an API key must be printable ASCII without spaces");
    }
    keys.push_back(key);
  }
  QUARRY_CHECK(!keys.empty(), ErrorCode::kInvalidArgument, path.string(),
               ": holds no API key (one per line, # begins a comment)");
  return keys;
}

}  // namespace quarry
