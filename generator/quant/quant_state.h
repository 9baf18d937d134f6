#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace quarry {

// Double quantization (Dettmers et al. 2023, arXiv:2305.14314): the absmax of 4-bit blocks, kept
// as offset + map[code] * absmax in blocks of kNestedBlock.
struct NestedAbsmax {
  std::vector<uint8_t> codes;       // one for each block of weights
  std::vector<float> absmax;        // one for each kNestedBlock codes
  std::array<float, 256> map = {};  // bitsandbytes: the signed dynamic map
  float offset = 0.0f;              // mean of all absmax
};
constexpr int64_t kNestedBlock = 256;

// What the codes of a tensor of type kNF4, kFP4 or kInt8Rows need to be decoded.
struct QuantState {
  int64_t block_size = 0;     // kNF4, kFP4: neighbours of the flattened tensor that share
                              // an absmax
  std::vector<float> absmax;  // of every block, decoded when nested; kInt8Rows: of every row
  std::optional<NestedAbsmax> nested;  // kNF4, kFP4
  std::string dtype = "float32";       // of the weights before, as PyTorch calls it
};

}  // namespace quarry
