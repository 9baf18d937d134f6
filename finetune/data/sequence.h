#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quarry {

// One training sequence: prompt and completion as tokens.
struct TrainingSequence {
  std::string id;  // unique in the set
  std::vector<int32_t> tokens;
  std::vector<uint8_t> is_target;  // [tokens.size()]; token i is predicted from those before it and
                                   // counts in the loss. is_target[0] is 0.
  int64_t group = 0;  // sequences of one group share a long prefix (the same passages) and are kept
                      // together
  // Of an encoder-decoder: what the encoder reads; `tokens` are then the decoder's.
  std::vector<int32_t> source = {};

  int64_t num_tokens() const { return static_cast<int64_t>(source.size() + tokens.size()); }
};

}  // namespace quarry
