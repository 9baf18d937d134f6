#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quarry {

// One input of a bidirectional encoder: a text, or two that it reads as one.
struct EncoderInput {
  std::vector<int32_t> ids;    // the template's tokens included
  std::vector<int32_t> types;  // token type (segment) of each; empty: all 0
  // Tokens of the second text: ids[second_begin .. second_end). Empty without one.
  size_t second_begin = 0;
  size_t second_end = 0;
};

}  // namespace quarry
