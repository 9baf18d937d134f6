#pragma once

#include <optional>
#include <string>
#include <vector>

#include "api/http/errors.h"

namespace quarry::http {

// 401 unless `authorization` is "Bearer <one of keys>"; nothing when `keys` is empty. The time
// taken does not depend on how much of a key is right.
std::optional<ApiError> check_api_key(const std::vector<std::string>& keys,
                                      const std::string& authorization);

}  // namespace quarry::http
