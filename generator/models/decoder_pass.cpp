#include "generator/models/decoder_pass.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "data/core/error.h"
#include "generator/nn/kv_cache.h"

namespace quarry {
namespace {

// The adapters of the rows that were selected.
std::vector<nn::AdapterSpan> select_spans(const std::vector<nn::AdapterSpan>& spans,
                                          const std::vector<int64_t>& rows) {
  std::vector<nn::AdapterSpan> selected;
  for (nn::AdapterSpan span : spans) {
    span.begin = std::lower_bound(rows.begin(), rows.end(), span.begin) - rows.begin();
    span.end = std::lower_bound(rows.begin(), rows.end(), span.end) - rows.begin();
    if (span.begin < span.end) selected.push_back(span);
  }
  return selected;
}

void check_token(int32_t token, const CausalLmConfig& config) {
  QUARRY_CHECK(token >= 0 && token < config.vocab_size, ErrorCode::kInvalidArgument, "token ",
               token, " is outside the vocabulary of ", config.vocab_size);
}

void check_chunk(const SequenceChunk& chunk, const CausalLmConfig& config) {
  QUARRY_CHECK(chunk.cache != nullptr && chunk.num_tokens > 0, ErrorCode::kInvalidArgument,
               "a chunk needs a cache and at least one token, got ", chunk.num_tokens);
  for (int64_t i = 0; i < chunk.num_tokens; ++i) check_token(chunk.tokens[i], config);
  QUARRY_CHECK(!config.has_encoder() || chunk.cache->memory() != nullptr,
               ErrorCode::kInvalidArgument,
               "the decoder of an encoder-decoder runs before its encoder has read a source");
}

void check_tree(const TokenTree& tree, const CausalLmConfig& config) {
  const int64_t num_rows = static_cast<int64_t>(tree.tokens.size());
  QUARRY_CHECK(!tree.targets.empty(), ErrorCode::kInvalidArgument, "a token tree has no target");
  QUARRY_CHECK(tree.positions.size() == tree.tokens.size(), ErrorCode::kInvalidArgument,
               "a token tree has ", num_rows, " tokens and ", tree.positions.size(), " positions");
  QUARRY_CHECK(config.has_encoder() || tree.source.empty(), ErrorCode::kInvalidArgument,
               "a token tree has a source of ", tree.source.size(),
               " tokens, but the model has no encoder");
  for (const int32_t token : tree.tokens) check_token(token, config);
  for (const int32_t position : tree.positions) {
    QUARRY_CHECK(position >= 0 && position < config.max_seq_len, ErrorCode::kInvalidArgument,
                 "position ", position, " is outside the context of ", config.max_seq_len);
  }
  for (const TokenTree::Target& target : tree.targets) {
    check_token(target.token, config);
    QUARRY_CHECK(target.row >= 0 && target.row < num_rows, ErrorCode::kInvalidArgument,
                 "a target at row ", target.row, " of a tree with ", num_rows, " rows");
  }
}

}  // namespace

DecoderPass plan_chunks(const std::vector<SequenceChunk>& chunks, const CausalLmConfig& config,
                        std::vector<int64_t>& output_rows) {
  for (const SequenceChunk& chunk : chunks) check_chunk(chunk, config);
  for (const SequenceChunk& chunk : chunks) chunk.cache->reserve(chunk.num_tokens);
  std::vector<size_t> order(chunks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::less<>()(chunks[a].adapter, chunks[b].adapter);
  });
  DecoderPass pass;
  std::vector<int64_t> first_row(chunks.size());
  for (size_t index : order) {
    const SequenceChunk& chunk = chunks[index];
    const int64_t begin = static_cast<int64_t>(pass.tokens.size());
    const int64_t end = begin + chunk.num_tokens;
    first_row[index] = begin;
    pass.tokens.insert(pass.tokens.end(), chunk.tokens, chunk.tokens + chunk.num_tokens);
    for (int64_t i = 0; i < chunk.num_tokens; ++i) {
      pass.positions.push_back(static_cast<int32_t>(chunk.cache->length() + i));
    }
    pass.sequences.push_back({begin, chunk.num_tokens, chunk.cache});
    if (chunk.adapter == nullptr) continue;
    if (!pass.adapters.empty() && pass.adapters.back().adapter == chunk.adapter) {
      pass.adapters.back().end = end;
    } else {
      pass.adapters.push_back({begin, end, chunk.adapter});
    }
  }
  std::vector<int64_t> wanted;
  for (size_t index = 0; index < chunks.size(); ++index) {
    const int64_t last = first_row[index] + chunks[index].num_tokens - 1;
    for (int64_t row = chunks[index].all_logits ? first_row[index] : last; row <= last; ++row) {
      wanted.push_back(row);
    }
  }
  pass.logit_rows = wanted;
  std::sort(pass.logit_rows.begin(), pass.logit_rows.end());
  for (const int64_t row : wanted) {
    output_rows.push_back(std::lower_bound(pass.logit_rows.begin(), pass.logit_rows.end(), row) -
                          pass.logit_rows.begin());
  }
  pass.logit_adapters = select_spans(pass.adapters, pass.logit_rows);
  return pass;
}

EncoderPass plan_source(const std::vector<int32_t>& tokens, const LoraAdapter* adapter,
                        LoraGradients* gradients, const CausalLmConfig& config) {
  const auto num_rows = static_cast<int64_t>(tokens.size());
  QUARRY_CHECK(num_rows >= 1 && num_rows <= config.max_seq_len, ErrorCode::kInvalidArgument,
               "a source of ", num_rows, " tokens, wanted 1 to ", config.max_seq_len);
  for (const int32_t token : tokens) check_token(token, config);
  EncoderPass pass;
  pass.tokens = tokens;
  if (adapter != nullptr) pass.adapters.push_back({0, num_rows, adapter, gradients});
  return pass;
}

DecoderPass plan_tree(const TokenTree& tree, const LoraAdapter* adapter, LoraGradients* gradients,
                      const CausalLmConfig& config) {
  check_tree(tree, config);
  DecoderPass pass;
  pass.tokens = tree.tokens;
  pass.positions = tree.positions;
  pass.segments = tree.segments;
  if (config.has_encoder()) pass.source = plan_source(tree.source, adapter, gradients, config);
  if (adapter != nullptr) {
    pass.adapters.push_back({0, static_cast<int64_t>(tree.tokens.size()), adapter, gradients});
  }
  for (const TokenTree::Target& target : tree.targets) pass.logit_rows.push_back(target.row);
  std::sort(pass.logit_rows.begin(), pass.logit_rows.end());
  pass.logit_rows.erase(std::unique(pass.logit_rows.begin(), pass.logit_rows.end()),
                        pass.logit_rows.end());
  pass.logit_adapters = select_spans(pass.adapters, pass.logit_rows);
  return pass;
}

}  // namespace quarry
