#include "finetune/data/data_state.h"

#include <algorithm>

namespace quarry {
namespace {

constexpr const char* kDigits = "0123456789abcdef";

// Row i is bit i % 4 of digit i / 4.
std::string to_hex(const std::vector<uint8_t>& flags) {
  std::string hex((flags.size() + 3) / 4, '0');
  for (size_t digit = 0; digit < hex.size(); ++digit) {
    unsigned value = 0;
    const size_t end = std::min(flags.size(), 4 * digit + 4);
    for (size_t i = 4 * digit; i < end; ++i) value |= flags[i] != 0 ? 1U << (i % 4) : 0U;
    hex[digit] = kDigits[value];
  }
  return hex;
}

std::vector<uint8_t> from_hex(const std::string& hex, uint64_t rows, const std::string& source) {
  QUARRY_CHECK(hex.size() == (rows + 3) / 4, ErrorCode::kCorruptData, source, ": found ",
               hex.size(), " digits for ", rows, " rows");
  std::vector<uint8_t> flags(rows);
  for (size_t i = 0; i < flags.size(); ++i) {
    const size_t value = std::string(kDigits).find(hex[i / 4]);
    QUARRY_CHECK(value != std::string::npos, ErrorCode::kCorruptData, source, ": found '",
                 hex[i / 4], "', wanted a hexadecimal digit");
    flags[i] = static_cast<uint8_t>(value >> (i % 4) & 1U);
  }
  return flags;
}

uint64_t count_field(const Json& value, const char* field, const std::string& source) {
  const auto found = value.is_object() ? value.find(field) : value.end();
  const bool is_count = value.is_object() && found != value.end() && found->is_number_integer() &&
                        (found->is_number_unsigned() || found->get<int64_t>() >= 0);
  QUARRY_CHECK(is_count, ErrorCode::kCorruptData, source, ": data state: no whole number \"", field,
               "\"");
  return found->get<uint64_t>();
}

std::string hex_field(const Json& value, const char* field, const std::string& source) {
  QUARRY_CHECK(value.contains(field) && value[field].is_string(), ErrorCode::kCorruptData, source,
               ": data state: no text \"", field, "\"");
  return value[field].get<std::string>();
}

}  // namespace

Json to_json(const DataState& state) {
  return {{"seed", state.seed},
          {"epoch", state.epoch},
          {"position", state.position},
          {"cursor", state.cursor},
          {"rows", state.used.asked.size()},
          {"asked", to_hex(state.used.asked)},
          {"refused", to_hex(state.used.refused)}};
}

DataState data_state_from_json(const Json& value, const std::string& source) {
  constexpr uint64_t kMostRows = uint64_t{1} << 31;
  DataState state;
  state.epoch = static_cast<int64_t>(count_field(value, "epoch", source));
  state.position = static_cast<int64_t>(count_field(value, "position", source));
  state.cursor = static_cast<int64_t>(count_field(value, "cursor", source));
  state.seed = count_field(value, "seed", source);
  const uint64_t rows = count_field(value, "rows", source);
  QUARRY_CHECK(rows <= kMostRows, ErrorCode::kCorruptData, source, ": data state: ", rows,
               " rows, at most ", kMostRows, " accepted");
  state.used.asked =
      from_hex(hex_field(value, "asked", source), rows, source + ": data state: asked");
  state.used.refused =
      from_hex(hex_field(value, "refused", source), rows, source + ": data state: refused");
  return state;
}

}  // namespace quarry
