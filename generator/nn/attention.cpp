#include "generator/nn/attention.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/aligned_buffer.h"
#include "generator/kernels/attention.h"
#include "generator/kernels/attention_backward.h"
#include "generator/kernels/gemm_bfloat16.h"
#include "generator/kernels/key_value_tiles.h"
#include "generator/kernels/tree_attention_bfloat16.h"
#include "generator/nn/autograd.h"

namespace quarry::nn {
namespace {

kernels::AttentionShape base_shape(const AttentionHeads& heads) {
  kernels::AttentionShape shape;
  shape.num_heads = heads.num_heads;
  shape.num_kv_heads = heads.num_kv_heads;
  shape.head_dim = heads.head_dim;
  shape.ldo = heads.num_heads * heads.head_dim;
  shape.scale = heads.scale != 0.0f
                    ? heads.scale
                    : static_cast<float>(1.0 / std::sqrt(static_cast<double>(heads.head_dim)));
  shape.window = heads.window;
  shape.alibi_slopes = heads.alibi_slopes;
  shape.relative_bias = heads.relative_bias;
  return shape;
}

kernels::BidirectionalShape bidirectional_shape(const AttentionHeads& heads) {
  kernels::BidirectionalShape shape;
  shape.num_heads = heads.num_heads;
  shape.head_dim = heads.head_dim;
  shape.scale = base_shape(heads).scale;
  shape.relative_bias = heads.relative_bias;
  return shape;
}

// Calls attend(sequence) for each. Sequences of few tokens (decoding) are shared out whole; a lone
// or a long one is split inside the kernel.
template <typename Attend>
void for_each_sequence(const std::vector<SequenceSpan>& sequences, const Attend& attend) {
  constexpr int64_t kFewTokens = 16;
  const bool many_small =
      sequences.size() > 1 &&
      std::all_of(sequences.begin(), sequences.end(),
                  [](const SequenceSpan& span) { return span.num_tokens <= kFewTokens; });
  if (many_small) {
    parallel_for(static_cast<int64_t>(sequences.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) attend(sequences[static_cast<size_t>(i)]);
    });
  } else {
    for (const SequenceSpan& sequence : sequences) attend(sequence);
  }
}

// Rows of queries over `num_keys` rows of keys and values side by side.
void attend_all(const AttentionHeads& heads, const float* q, int64_t num_queries, const float* kv,
                int64_t num_keys, float* out) {
  const int64_t width = heads.num_heads * heads.head_dim;
  kernels::AttentionShape shape = base_shape(heads);
  shape.num_queries = num_queries;
  shape.num_keys = num_keys;
  shape.ldq = width;
  shape.ldk = 2 * width;
  shape.causal = false;
  kernels::attention(shape, q, kv, kv + width, out);
}

// Keys and values of one text in tiles.
class TiledText {
 public:
  // `stride`: floats between two tokens.
  TiledText(const AttentionHeads& heads, const float* k, const float* v, int64_t num_tokens,
            int64_t stride) {
    thread_local kernels::AlignedBuffer memory;
    const int64_t part =
        kernels::kTileKeys * heads.num_kv_heads * kernels::padded_head_dim(heads.head_dim);
    const int64_t num_tiles = (num_tokens + kernels::kTileKeys - 1) / kernels::kTileKeys;
    auto* tiles = reinterpret_cast<uint16_t*>(memory.reserve(num_tiles * 2 * part * 2));
    for (int64_t i = 0; i < num_tiles; ++i) starts_.push_back(tiles + i * 2 * part);
    view_ = {starts_.data(), starts_.data(), 0, part};
    for (int64_t i = 0; i < num_tiles; ++i) {
      const int64_t first = i * kernels::kTileKeys;
      const int64_t count = std::min(kernels::kTileKeys, num_tokens - first);
      uint16_t* tile = tiles + i * 2 * part;
      kernels::store_keys(k + first * stride, stride, count, heads.num_kv_heads, heads.head_dim, 0,
                          tile);
      kernels::store_values(v + first * stride, stride, count, heads.num_kv_heads, heads.head_dim,
                            0, tile + part);
    }
  }
  const kernels::KeyValueTiles& view() const { return view_; }

 private:
  std::vector<const uint16_t*> starts_;
  kernels::KeyValueTiles view_;
};

}  // namespace

Tensor cached_attention(const Tensor& qkv, const AttentionHeads& heads, int64_t layer,
                        const std::vector<SequenceSpan>& sequences, Workspace& workspace) {
  const int64_t q_width = heads.num_heads * heads.head_dim;
  const int64_t kv_width = heads.num_kv_heads * heads.head_dim;
  QUARRY_DCHECK(qkv.size(1) == q_width + 2 * kv_width);
  Tensor out = workspace.empty(qkv.size(0), q_width);
  for_each_sequence(sequences, [&](const SequenceSpan& sequence) {
    KvCache& cache = *sequence.cache;
    const float* row = row_data(qkv, sequence.begin);
    cache.write(layer, row + q_width, row + q_width + kv_width, sequence.num_tokens, qkv.size(1));
    kernels::AttentionShape shape = base_shape(heads);
    shape.num_queries = sequence.num_tokens;
    shape.num_keys = cache.length() + sequence.num_tokens;
    shape.ldq = qkv.size(1);
    shape.ldk = kv_width;
    float* destination = mutable_row_data(out, sequence.begin);
    switch (cache.element_type()) {
      case KvCache::ElementType::kHalf:
        return kernels::attention(shape, row, cache.half_pages(layer), destination);
      case KvCache::ElementType::kBFloat16:
        return kernels::attention(shape, row, cache.tiles(layer), destination);
      case KvCache::ElementType::kFloat:
        return kernels::attention(shape, row, cache.float_pages(layer), destination);
    }
  });
  return out;
}

Tensor tree_attention(const Tensor& qkv, const AttentionHeads& heads,
                      const std::vector<kernels::TreeSegment>& segments, Workspace& workspace) {
  kernels::TreeAttentionShape shape;
  shape.num_heads = heads.num_heads;
  shape.num_kv_heads = heads.num_kv_heads;
  shape.head_dim = heads.head_dim;
  shape.scale = base_shape(heads).scale;
  shape.window = heads.window;
  shape.alibi_slopes = heads.alibi_slopes;
  shape.relative_bias = heads.relative_bias;
  QUARRY_DCHECK(qkv.size(1) == (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim);
  QUARRY_DCHECK(!segments.empty() && segments.back().end == qkv.size(0));
  Tensor out = workspace.empty(qkv.size(0), heads.num_heads * heads.head_dim);
  // A pass that rounds does so here as well, but for windows and biases, and where the CPU
  // multiplies bfloat16; also where checkpointing keeps nothing of it.
  SavedActivation saved;
  const bool rounds = workspace.activation_bits() == kernels::ActivationBits::k8 &&
                      workspace.saved_precision() == SavedPrecision::kBFloat16 &&
                      kernels::multiplies_bfloat16() && heads.window == 0 &&
                      heads.alibi_slopes == nullptr && heads.relative_bias.table == nullptr;
  if (rounds || needs_gradient(qkv)) saved = SavedActivation(qkv, workspace);
  if (rounds) {
    kernels::tree_attention_bfloat16(shape, segments, saved.bfloat16_rows(), out.data_ptr<float>());
  } else {
    kernels::tree_attention(shape, segments, qkv.data_ptr<float>(), out.data_ptr<float>());
  }
  if (!needs_gradient(qkv)) return out;
  return record(out, {qkv}, [saved, rounds, shape, segments, &workspace](const Tensor& gradient) {
    const int64_t width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim;
    Tensor dqkv = workspace.empty(gradient.size(0), width);
    if (rounds) {
      kernels::tree_attention_bfloat16_backward(shape, segments, saved.bfloat16_rows(),
                                                gradient.data_ptr<float>(), dqkv.data_ptr<float>());
    } else {
      kernels::tree_attention_backward(shape, segments, saved.restore(workspace).data_ptr<float>(),
                                       gradient.data_ptr<float>(), dqkv.data_ptr<float>());
    }
    return std::vector<Tensor>{dqkv};
  });
}

Tensor bidirectional_attention(const Tensor& qkv, const AttentionHeads& heads,
                               const std::vector<int64_t>& starts, Workspace& workspace) {
  const int64_t width = heads.num_heads * heads.head_dim;
  QUARRY_DCHECK(heads.num_kv_heads == heads.num_heads && qkv.size(1) == 3 * width);
  QUARRY_DCHECK(!starts.empty() && starts.back() == qkv.size(0));
  Tensor out = workspace.empty(qkv.size(0), width);
  const bool in_tiles = heads.rounds && !needs_gradient(qkv) && kernels::multiplies_bfloat16();
  parallel_for(static_cast<int64_t>(starts.size()) - 1, 1, [&](int64_t begin, int64_t end) {
    for (int64_t text = begin; text < end; ++text) {
      const int64_t first = starts[static_cast<size_t>(text)];
      kernels::AttentionShape shape = base_shape(heads);
      shape.num_queries = shape.num_keys = starts[static_cast<size_t>(text) + 1] - first;
      shape.ldq = shape.ldk = qkv.size(1);
      shape.causal = false;
      const float* row = row_data(qkv, first);
      float* result = mutable_row_data(out, first);
      if (in_tiles) {
        const TiledText tiles(heads, row + width, row + 2 * width, shape.num_keys, qkv.size(1));
        kernels::attention(shape, row, tiles.view(), result);
      } else {
        kernels::attention(shape, row, row + width, row + 2 * width, result);
      }
    }
  });
  if (!needs_gradient(qkv)) return out;
  const SavedActivation saved(qkv, workspace);
  return record(out, {qkv}, [saved, heads, starts, &workspace](const Tensor& gradient) {
    const Tensor input = saved.restore(workspace);
    Tensor dqkv = workspace.empty(input.size(0), input.size(1));
    kernels::bidirectional_attention_backward(bidirectional_shape(heads), starts,
                                              input.data_ptr<float>(), gradient.data_ptr<float>(),
                                              dqkv.data_ptr<float>());
    return std::vector<Tensor>{dqkv};
  });
}

Tensor cross_attention(const Tensor& q, const Tensor& kv, const AttentionHeads& heads,
                       Workspace& workspace) {
  const int64_t width = heads.num_heads * heads.head_dim;
  QUARRY_DCHECK(heads.num_kv_heads == heads.num_heads && heads.relative_bias.table == nullptr);
  QUARRY_DCHECK(q.size(1) == width && kv.size(1) == 2 * width && kv.size(0) > 0);
  Tensor out = workspace.empty(q.size(0), width);
  attend_all(heads, q.data_ptr<float>(), q.size(0), kv.data_ptr<float>(), kv.size(0),
             out.data_ptr<float>());
  if (!needs_gradient(q) && !needs_gradient(kv)) return out;
  const SavedActivation saved_q(q, workspace);
  const SavedActivation saved_kv(kv, workspace);
  return record(out, {q, kv}, [=, &workspace](const Tensor& gradient) {
    const Tensor queries = saved_q.restore(workspace);
    const Tensor memory = saved_kv.restore(workspace);
    Tensor dq = workspace.empty(queries.size(0), queries.size(1));
    Tensor dkv = workspace.empty(memory.size(0), memory.size(1));
    kernels::cross_attention_backward(bidirectional_shape(heads), queries.size(0), memory.size(0),
                                      queries.data_ptr<float>(), memory.data_ptr<float>(),
                                      gradient.data_ptr<float>(), dq.data_ptr<float>(),
                                      dkv.data_ptr<float>());
    return std::vector<Tensor>{dq, dkv};
  });
}

Tensor cached_cross_attention(const Tensor& q, const AttentionHeads& heads, int64_t layer,
                              const std::vector<SequenceSpan>& sequences, Workspace& workspace) {
  QUARRY_DCHECK(heads.num_kv_heads == heads.num_heads && heads.relative_bias.table == nullptr);
  Tensor out = workspace.empty(q.size(0), q.size(1));
  for_each_sequence(sequences, [&](const SequenceSpan& sequence) {
    const EncoderMemory& memory = *sequence.cache->memory();
    attend_all(heads, row_data(q, sequence.begin), sequence.num_tokens,
               memory.layers[static_cast<size_t>(layer)].data(), memory.num_rows,
               mutable_row_data(out, sequence.begin));
  });
  return out;
}

}  // namespace quarry::nn
