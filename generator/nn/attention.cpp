#include "generator/nn/attention.h"

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/attention.h"
#include "generator/kernels/attention_backward.h"
#include "generator/kernels/gemm_bfloat16.h"
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
  return shape;
}

}  // namespace

Tensor cached_attention(const Tensor& qkv, const AttentionHeads& heads, int64_t layer,
                        const std::vector<SequenceSpan>& sequences, Workspace& workspace) {
  const int64_t q_width = heads.num_heads * heads.head_dim;
  const int64_t kv_width = heads.num_kv_heads * heads.head_dim;
  QUARRY_DCHECK(qkv.size(1) == q_width + 2 * kv_width);
  Tensor out = workspace.empty(qkv.size(0), q_width);
  const auto attend = [&](const SequenceSpan& sequence) {
    KvCache& cache = *sequence.cache;
    const float* row = row_data(qkv, sequence.begin);
    cache.write(layer, row + q_width, row + q_width + kv_width, sequence.num_tokens, qkv.size(1));
    kernels::AttentionShape shape = base_shape(heads);
    shape.num_queries = sequence.num_tokens;
    shape.num_keys = cache.length() + sequence.num_tokens;
    shape.ldq = qkv.size(1);
    shape.ldk = kv_width;
    float* destination = mutable_row_data(out, sequence.begin);
    if (cache.element_type() == KvCache::ElementType::kHalf) {
      kernels::attention(shape, row, cache.half_pages(layer), destination);
    } else {
      kernels::attention(shape, row, cache.float_pages(layer), destination);
    }
  };
  // Sequences of few tokens each (decoding) are shared out whole; a lone or a long one is split
  // inside the kernel.
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
  QUARRY_DCHECK(qkv.size(1) == (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim);
  QUARRY_DCHECK(!segments.empty() && segments.back().end == qkv.size(0));
  Tensor out = workspace.empty(qkv.size(0), heads.num_heads * heads.head_dim);
  // A pass that rounds does so here as well, but for windows and linear biases, and where the CPU
  // multiplies bfloat16; also where checkpointing keeps nothing of it.
  SavedActivation saved;
  const bool rounds = workspace.activation_bits() == kernels::ActivationBits::k8 &&
                      workspace.saved_precision() == SavedPrecision::kBFloat16 &&
                      kernels::multiplies_bfloat16() && heads.window == 0 &&
                      heads.alibi_slopes == nullptr;
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
  parallel_for(static_cast<int64_t>(starts.size()) - 1, 1, [&](int64_t begin, int64_t end) {
    for (int64_t text = begin; text < end; ++text) {
      const int64_t first = starts[static_cast<size_t>(text)];
      kernels::AttentionShape shape = base_shape(heads);
      shape.num_queries = shape.num_keys = starts[static_cast<size_t>(text) + 1] - first;
      shape.ldq = shape.ldk = qkv.size(1);
      shape.causal = false;
      const float* row = row_data(qkv, first);
      kernels::attention(shape, row, row + width, row + 2 * width, mutable_row_data(out, first));
    }
  });
  if (!needs_gradient(qkv)) return out;
  const SavedActivation saved(qkv, workspace);
  return record(out, {qkv}, [saved, heads, starts, &workspace](const Tensor& gradient) {
    const Tensor input = saved.restore(workspace);
    Tensor dqkv = workspace.empty(input.size(0), input.size(1));
    kernels::BidirectionalShape shape;
    shape.num_heads = heads.num_heads;
    shape.head_dim = heads.head_dim;
    shape.scale = base_shape(heads).scale;
    kernels::bidirectional_attention_backward(shape, starts, input.data_ptr<float>(),
                                              gradient.data_ptr<float>(), dqkv.data_ptr<float>());
    return std::vector<Tensor>{dqkv};
  });
}

}  // namespace quarry::nn
