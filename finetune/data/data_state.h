#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/core/json.h"

namespace quarry {

// What an epoch has used up, by row.
struct UsedRows {
  std::vector<uint8_t> asked;    // with its own answer
  std::vector<uint8_t> refused;  // with passages that do not answer
};

// Where a GroupStream stands between two groups.
struct DataState {
  uint64_t seed = 0;
  int64_t epoch = 0;
  int64_t position = 0;  // groups planned in this epoch
  int64_t cursor = 0;    // rows of the epoch's order that were passed
  UsedRows used;         // empty: unknown, to be found by planning `position` groups again
};

// A JSON object; the lists as hexadecimal digits, four rows each.
Json to_json(const DataState& state);
// Throws kCorruptData naming `source` and the field.
DataState data_state_from_json(const Json& value, const std::string& source);

}  // namespace quarry
