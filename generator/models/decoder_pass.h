#pragma once

#include <cstdint>
#include <vector>

#include "generator/models/causal_lm.h"
#include "generator/nn/adapter_span.h"
#include "generator/nn/attention.h"

namespace quarry {

// The rows of one source in an encoder.
struct EncoderPass {
  std::vector<int32_t> tokens;  // [S]; empty: none
  std::vector<nn::AdapterSpan> adapters;
  nn::Tensor states;  // [S, E]: what the encoder made of them, for the decoder's layers
};

// The rows of one pass through a decoder: of forward(), chunk after chunk, chunks of the same
// adapter side by side; or of a token tree.
struct DecoderPass {
  std::vector<int32_t> tokens;     // [T]
  std::vector<int32_t> positions;  // [T]
  std::vector<nn::SequenceSpan> sequences;
  std::vector<kernels::TreeSegment> segments;  // of a tree; sequences is empty then
  EncoderPass source;                          // of a tree, too
  std::vector<nn::AdapterSpan> adapters;
  // Rows whose logits are asked for, ascending: what follows the last layer's attention is computed
  // for these alone.
  std::vector<int64_t> logit_rows;
  std::vector<nn::AdapterSpan> logit_adapters;  // spans of logit_rows
};

// Checks the chunks, makes room in their caches and plans them. `output_rows` receives, for each
// row of logits that the caller expects, its place in logit_rows. Throws kInvalidArgument.
DecoderPass plan_chunks(const std::vector<SequenceChunk>& chunks, const CausalLmConfig& config,
                        std::vector<int64_t>& output_rows);

// `adapter` and `gradients` may be null. Throws kInvalidArgument.
EncoderPass plan_source(const std::vector<int32_t>& tokens, const LoraAdapter* adapter,
                        LoraGradients* gradients, const CausalLmConfig& config);

// `adapter` and `gradients` may be null. Throws kInvalidArgument.
DecoderPass plan_tree(const TokenTree& tree, const LoraAdapter* adapter, LoraGradients* gradients,
                      const CausalLmConfig& config);

}  // namespace quarry
