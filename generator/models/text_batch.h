#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/text/tokenizer.h"
#include "generator/models/encoder_input.h"
#include "generator/nn/workspace.h"

namespace quarry {

// The tokenizer's template around each text; one of more than `max_tokens` loses its end, the
// template's last token stays.
std::vector<EncoderInput> encode_texts(const Tokenizer& tokenizer,
                                       const std::vector<std::string>& texts, int64_t max_tokens);

// How many tokens the template itself has.
int64_t num_template_tokens(const PairTemplate& around);
// The ids of two texts inside the pair template, nothing cut.
EncoderInput join_pair(const PairTemplate& around, const std::vector<int32_t>& first,
                       const std::vector<int32_t>& second);

// The same, of at most `max_tokens`: the longer text is cut until both are of one length, then both
// ("longest_first" of Hugging Face's tokenizers, with their rounding). REQUIRES: max_tokens is more
// than the template has.
EncoderInput encode_pair(const Tokenizer& tokenizer, const PairTemplate& around,
                         const std::string& first, const std::string& second, int64_t max_tokens);

// Texts one after the other, nothing padded: text i is rows [starts[i], starts[i + 1]).
struct TextBatch {
  std::vector<int32_t> ids;        // [T]
  std::vector<int32_t> positions;  // [T], counted from 0 in each text
  std::vector<int32_t> types;      // [T], or empty: all 0
  std::vector<int64_t> starts = {0};

  void add(const EncoderInput& input);
  int64_t num_rows() const { return static_cast<int64_t>(ids.size()); }
};

// Rows that one pass through the layers holds: enough to use every weight many times, few enough
// for the activations to stay in the cache.
constexpr int64_t kRowsPerBatch = 192;
// The same of a GPU, whose launches cost as much for few rows as for many.
constexpr int64_t kRowsPerDeviceBatch = 4096;

// Calls work(batch, members, workspace) for batches that hold every input once: text i of the batch
// is inputs[members[i]]. Inputs of like length share a batch, so that its texts take the same time.
// Batches run on all threads, each with a workspace of its own, to which `workspaces` grows.
using BatchWork =
    std::function<void(const TextBatch& batch, const size_t* members, nn::Workspace& workspace)>;
void for_each_batch(const std::vector<EncoderInput>& inputs, int64_t rows_per_batch,
                    std::vector<nn::Workspace>& workspaces, const BatchWork& work);

}  // namespace quarry
