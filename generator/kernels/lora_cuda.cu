// The adapters of a batch:  low = x A^T  for the rows of every span, then  y += low B.
#include <algorithm>

#include "generator/kernels/cuda_device.h"
#include "generator/kernels/cuda_twins.h"

namespace quarry::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostRows = 8;   // of x that a block has
constexpr int kRanks = 4;      // rows of A that a block has
constexpr int kMaxSpans = 16;  // of one launch

struct SpanTable {
  LoraSpan spans[kMaxSpans];
  float* low[kMaxSpans];  // [rows of the span][rank]
};

// Grid: tiles of kRows rows, tiles of ranks, spans. Thread i sums over k = i, i + kThreads, ...
template <int kRows>
__global__ void __launch_bounds__(kThreads)
    shrink_kernel(SpanTable table, const float* x, int64_t k, int64_t ldx) {
  const LoraSpan span = table.spans[blockIdx.z];
  const int64_t first = span.begin + static_cast<int64_t>(blockIdx.x) * kRows;
  const int64_t first_rank = static_cast<int64_t>(blockIdx.y) * kRanks;
  if (first >= span.end || first_rank >= span.rank) return;
  float total[kRows][kRanks] = {};
  for (int64_t i = threadIdx.x; i < k; i += kThreads) {
    float a[kRanks];
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      a[r] = first_rank + r < span.rank ? span.a[(first_rank + r) * k + i] : 0.0f;
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const float value = first + row < span.end ? x[(first + row) * ldx + i] : 0.0f;
#pragma unroll
      for (int r = 0; r < kRanks; ++r) total[row][r] += value * a[r];
    }
  }
  float* sums = reinterpret_cast<float*>(shared_memory());  // [warps][kRows][kRanks]
  const int tid = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      const float sum = sum_lanes<kWarp>(total[row][r]);
      if (tid % kWarp == 0) sums[(tid / kWarp * kRows + row) * kRanks + r] = sum;
    }
  }
  __syncthreads();
  const int row = tid / kRanks;
  const int64_t rank = first_rank + tid % kRanks;
  if (tid >= kRows * kRanks || first + row >= span.end || rank >= span.rank) return;
  float sum = 0.0f;
  for (int i = 0; i < kThreads / kWarp; ++i) sum += sums[i * kRows * kRanks + tid];
  table.low[blockIdx.z][(first + row - span.begin) * span.rank + rank] = sum;
}

// Grid: tiles of kRows rows, tiles of kThreads columns, spans.
template <int kRows>
__global__ void __launch_bounds__(kThreads)
    expand_kernel(SpanTable table, float* y, int64_t n, int64_t ldy) {
  const LoraSpan span = table.spans[blockIdx.z];
  const int64_t first = span.begin + static_cast<int64_t>(blockIdx.x) * kRows;
  if (first >= span.end) return;
  const int rank = static_cast<int>(span.rank);
  const int rows = static_cast<int>(span.end - first < kRows ? span.end - first : kRows);
  float* low = reinterpret_cast<float*>(shared_memory());  // [kRows][rank]
  const float* source = table.low[blockIdx.z] + (first - span.begin) * rank;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * rank; i += kThreads) {
    low[i] = i < rows * rank ? source[i] : 0.0f;
  }
  __syncthreads();
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (column >= n) return;
  float total[kRows] = {};
#pragma unroll 8
  for (int r = 0; r < rank; ++r) {
    const float value = span.b[r * n + column];
#pragma unroll
    for (int row = 0; row < kRows; ++row) total[row] += low[row * rank + r] * value;
  }
  for (int row = 0; row < rows; ++row) y[(first + row) * ldy + column] += total[row];
}

unsigned tiles(int64_t count, int64_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

template <int kRows>
void launch_spans(const SpanTable& table, size_t count, int64_t most_rows, int64_t most_ranks,
                  const float* x, int64_t k, int64_t ldx, float* y, int64_t n, int64_t ldy,
                  CUstream_st* stream) {
  const auto z = static_cast<unsigned>(count);
  launch("add_lora: shrink", shrink_kernel<kRows>,
         dim3(tiles(most_rows, kRows), tiles(most_ranks, kRanks), z), kThreads,
         kThreads / kWarp * kRows * kRanks * 4, stream, table, x, k, ldx);
  launch("add_lora: expand", expand_kernel<kRows>,
         dim3(tiles(most_rows, kRows), tiles(n, kThreads), z), kThreads, kRows * most_ranks * 4,
         stream, table, y, n, ldy);
}

}  // namespace

int64_t lora_scratch_bytes(const std::vector<LoraSpan>& spans) {
  int64_t floats = 0;
  for (const LoraSpan& span : spans) floats += (span.end - span.begin) * span.rank;
  return floats * 4;
}

void add_lora(const std::vector<LoraSpan>& spans, const float* x, int64_t k, int64_t ldx, float* y,
              int64_t n, int64_t ldy, void* scratch, CUstream_st* stream) {
  float* low = static_cast<float*>(scratch);
  for (size_t done = 0; done < spans.size(); done += kMaxSpans) {
    SpanTable table = {};
    const size_t count = std::min<size_t>(kMaxSpans, spans.size() - done);
    int64_t most_rows = 0;
    int64_t most_ranks = 0;
    for (size_t i = 0; i < count; ++i) {
      const LoraSpan& span = spans[done + i];
      QUARRY_CHECK(
          span.begin >= 0 && span.end >= span.begin && span.rank >= 1 && span.rank <= kMaxSpanRank,
          ErrorCode::kInvalidArgument, "add_lora: rows [", span.begin, ", ", span.end, ") of rank ",
          span.rank, ", want ascending rows and a rank from 1 to ", kMaxSpanRank);
      table.spans[i] = span;
      table.low[i] = low;
      low += (span.end - span.begin) * span.rank;
      most_rows = std::max(most_rows, span.end - span.begin);
      most_ranks = std::max(most_ranks, span.rank);
    }
    if (most_rows == 0) continue;
    if (most_rows == 1) {
      launch_spans<1>(table, count, most_rows, most_ranks, x, k, ldx, y, n, ldy, stream);
    } else {
      launch_spans<kMostRows>(table, count, most_rows, most_ranks, x, k, ldx, y, n, ldy, stream);
    }
  }
}

}  // namespace quarry::kernels::cuda
