// Attention on tensor cores with an online softmax over tiles of keys (Milakov & Gimelshein 2018,
// arXiv:1805.02867; Dao 2023, arXiv:2307.08691), for prompts and, with the keys split over blocks
// (Flash-Decoding, Dao et al. 2023), for single queries.
#include <algorithm>

#include "generator/kernels/attention_twins.h"
#include "generator/kernels/cuda_device.h"
#include "generator/kernels/cuda_twins.h"

namespace quarry::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = 16 * kWarps;  // (query, head) pairs of one kv head that a block has
constexpr int kPad = 8;  // halves after a row in shared memory: 8 rows then lie in distinct banks
constexpr float kLog2E = 1.44269504f;

struct AttentionArguments {
  const float* q;
  const uint16_t* k;
  const uint16_t* v;
  float* out;
  float* partial;  // [splits][kv heads][rows][head_dim + 2]: sums, maximum, sum of weights
  int64_t ldq;
  int64_t ldk;
  int64_t ldo;
  int num_queries;
  int num_keys;
  int num_kv_heads;
  int group;  // heads of a kv head
  int head_dim;
  int causal;
  int window;
  int splits;
  float scale;  // times log2(e)

  __host__ __device__ int rows() const { return num_queries * group; }
};

struct KeyRange {
  int begin;
  int end;
};

// Keys that query `query` sees.
__device__ inline KeyRange visible_keys(const AttentionArguments& a, int query) {
  if (a.causal == 0) return {0, a.num_keys};
  const int end = a.num_keys - a.num_queries + query + 1;
  return {a.window > 0 && end > a.window ? end - a.window : 0, end};
}

// Tiles of this block's split, of those that its rows see.
template <int kKeys>
__device__ inline KeyRange tiles_of_block(const AttentionArguments& a, int first_row) {
  const int last_row = (first_row + kRows < a.rows() ? first_row + kRows : a.rows()) - 1;
  const int begin = visible_keys(a, first_row / a.group).begin / kKeys;
  const int end = (visible_keys(a, last_row / a.group).end + kKeys - 1) / kKeys;
  const int split = static_cast<int>(blockIdx.z);
  return {begin + (end - begin) * split / a.splits, begin + (end - begin) * (split + 1) / a.splits};
}

// Rows of the block's queries as scaled halves; 0 past the last row and past head_dim.
template <int kDim>
__device__ inline void load_queries(const AttentionArguments& a, int kv_head, int first_row,
                                    uint16_t* out) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kDim / 4; i += kThreads) {
    const int row = i / (kDim / 4);
    const int d = i % (kDim / 4) * 4;
    float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
    if (first_row + row < a.rows() && d < a.head_dim) {
      const int query = (first_row + row) / a.group;
      const int head = kv_head * a.group + (first_row + row) % a.group;
      v = *reinterpret_cast<const float4*>(a.q + query * a.ldq + head * a.head_dim + d);
    }
    *reinterpret_cast<uint2*>(out + row * (kDim + kPad) + d) =
        uint2{pack_halves(v.x * a.scale, v.y * a.scale), pack_halves(v.z * a.scale, v.w * a.scale)};
  }
}

// Starts copying tile `tile` of one kv head's keys or values; rows past the last key become 0.
template <int kDim, int kKeys>
__device__ inline void copy_tile(const AttentionArguments& a, const uint16_t* source, int kv_head,
                                 int tile, uint16_t* out) {
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * kDim / 8; i += kThreads) {
    const int row = i / (kDim / 8);
    const int d = i % (kDim / 8) * 8;
    const int key = tile * kKeys + row;
    const bool inside = key < a.num_keys && d < a.head_dim;
    const int64_t offset = inside ? key * a.ldk + kv_head * a.head_dim + d : 0;
    copy_async(out + row * (kDim + kPad) + d, source + offset, inside);
  }
}

// score[j] = this warp's 16 queries times keys 8j .. 8j + 7 of the tile.
template <int kDim, int kKeys>
__device__ inline void score_tile(const uint16_t* q, const uint16_t* k, int lane,
                                  float score[][4]) {
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) score[j][0] = score[j][1] = score[j][2] = score[j][3] = 0.0f;
#pragma unroll
  for (int d = 0; d < kDim; d += 32) {
    uint32_t a[2][4];
    load_tiles(a[0], q + lane % 16 * (kDim + kPad) + d + lane / 16 * 8);
    load_tiles(a[1], q + lane % 16 * (kDim + kPad) + d + 16 + lane / 16 * 8);
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
      uint32_t b[4];
      load_tiles(b, k + (8 * j + lane % 8) * (kDim + kPad) + d + lane / 8 * 8);
      multiply_tiles(score[j], a[0], b[0], b[1]);
      multiply_tiles(score[j], a[1], b[2], b[3]);
    }
  }
}

// out[j] += weights[16 x keys] times columns 8j .. 8j + 7 of the values.
template <int kDim, int kKeys>
__device__ inline void add_values(const float weight[][4], const uint16_t* v, int lane,
                                  float out[][4]) {
#pragma unroll
  for (int i = 0; i < kKeys / 16; ++i) {
    const uint32_t a[4] = {pack_halves(weight[2 * i][0], weight[2 * i][1]),
                           pack_halves(weight[2 * i][2], weight[2 * i][3]),
                           pack_halves(weight[2 * i + 1][0], weight[2 * i + 1][1]),
                           pack_halves(weight[2 * i + 1][2], weight[2 * i + 1][3])};
#pragma unroll
    for (int j = 0; j < kDim / 8; j += 2) {
      uint32_t b[4];
      load_tiles_transposed(b, v + (16 * i + lane % 16) * (kDim + kPad) + 8 * j + lane / 16 * 8);
      multiply_tiles(out[j], a, b[0], b[1]);
      multiply_tiles(out[j + 1], a, b[2], b[3]);
    }
  }
}

// What a lane keeps of its two rows, lane / 4 and lane / 4 + 8 of the warp's.
struct Softmax {
  float maximum[2];  // of the scores so far, the same in the four lanes of a row
  float sum[2];      // of this lane's weights
  KeyRange visible[2];
};

// Turns scores into weights relative to the new maximum (0 where masked) and rescales `out`.
template <int kDim, int kKeys>
__device__ inline void weigh(int first_key, int lane, float score[][4], Softmax& s,
                             float out[][4]) {
  constexpr float kMinusInfinity = -INFINITY;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int begin = s.visible[h].begin - first_key - 2 * (lane % 4);
    const int end = s.visible[h].end - first_key - 2 * (lane % 4);
    float largest = s.maximum[h];
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int key = 8 * j + i;
        if (key < begin || key >= end) score[j][2 * h + i] = kMinusInfinity;
        largest = fmaxf(largest, score[j][2 * h + i]);
      }
    }
    largest = max_lanes<4>(largest);
    // -inf - -inf is NaN: scores that are all -inf count as 0 apart.
    const float shift = largest == kMinusInfinity ? 0.0f : largest;
    const float factor = exp2f(s.maximum[h] - shift);
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        score[j][2 * h + i] = exp2f(score[j][2 * h + i] - shift);
        sum += score[j][2 * h + i];
      }
    }
    s.sum[h] = s.sum[h] * factor + sum;
    s.maximum[h] = largest;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      out[j][2 * h] *= factor;
      out[j][2 * h + 1] *= factor;
    }
  }
}

template <int kDim>
__device__ inline void write_rows(const AttentionArguments& a, int kv_head, int first_row, int lane,
                                  const Softmax& s, const float out[][4]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float sum = sum_lanes<4>(s.sum[h]);
    const int row = first_row + lane / 4 + 8 * h;
    if (row >= a.rows()) continue;
    const int head = kv_head * a.group + row % a.group;
    const int64_t slot = (static_cast<int64_t>(blockIdx.z) * a.num_kv_heads + kv_head) * a.rows();
    float* target = a.splits == 1 ? a.out + row / a.group * a.ldo + head * a.head_dim
                                  : a.partial + (slot + row) * (a.head_dim + 2);
    const float factor = a.splits == 1 ? 1.0f / sum : 1.0f;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      const int d = 8 * j + 2 * (lane % 4);
      if (d >= a.head_dim) continue;
      *reinterpret_cast<float2*>(target + d) =
          float2{out[j][2 * h] * factor, out[j][2 * h + 1] * factor};
    }
    if (a.splits > 1 && lane % 4 == 0) {
      target[a.head_dim] = s.maximum[h];
      target[a.head_dim + 1] = sum;
    }
  }
}

// kDim: head_dim padded. Grid: tiles of kRows rows (the ones with most keys first), kv heads,
// splits. Shared memory: queries, two tiles of keys, two of values.
template <int kDim, int kKeys>
__global__ void __launch_bounds__(kThreads) attention_kernel(AttentionArguments a) {
  constexpr int kTileHalves = kKeys * (kDim + kPad);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  const int kv_head = static_cast<int>(blockIdx.y);
  uint16_t* q = reinterpret_cast<uint16_t*>(shared_memory());
  uint16_t* keys = q + kRows * (kDim + kPad);
  uint16_t* values = keys + 2 * kTileHalves;
  const KeyRange tiles = tiles_of_block<kKeys>(a, first_row);

  Softmax s;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    s.maximum[h] = -INFINITY;
    s.sum[h] = 0.0f;
    s.visible[h] = visible_keys(a, (first_row + 16 * warp + lane / 4 + 8 * h) / a.group);
  }
  float out[kDim / 8][4] = {};
  const bool has_rows = first_row + 16 * warp < a.rows();
  if (tiles.begin < tiles.end) {
    copy_tile<kDim, kKeys>(a, a.k, kv_head, tiles.begin, keys);
    copy_tile<kDim, kKeys>(a, a.v, kv_head, tiles.begin, values);
  }
  commit_copies();
  load_queries<kDim>(a, kv_head, first_row, q);
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const int now = (tile - tiles.begin) % 2;
    if (tile + 1 < tiles.end) {
      copy_tile<kDim, kKeys>(a, a.k, kv_head, tile + 1, keys + (1 - now) * kTileHalves);
      copy_tile<kDim, kKeys>(a, a.v, kv_head, tile + 1, values + (1 - now) * kTileHalves);
    }
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    if (has_rows) {
      float score[kKeys / 8][4];
      score_tile<kDim, kKeys>(q + 16 * warp * (kDim + kPad), keys + now * kTileHalves, lane, score);
      weigh<kDim, kKeys>(tile * kKeys, lane, score, s, out);
      add_values<kDim, kKeys>(score, values + now * kTileHalves, lane, out);
    }
    __syncthreads();  // before the tile is overwritten
  }
  if (has_rows) write_rows<kDim>(a, kv_head, first_row + 16 * warp, lane, s, out);
}

// Joins the splits of a row. Grid: rows, kv heads; one thread for each of head_dim.
__global__ void join_kernel(AttentionArguments a) {
  const int row = static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int64_t stride = static_cast<int64_t>(a.num_kv_heads) * a.rows() * (a.head_dim + 2);
  const float* first =
      a.partial + (static_cast<int64_t>(kv_head) * a.rows() + row) * (a.head_dim + 2);
  float largest = -INFINITY;
  for (int i = 0; i < a.splits; ++i) largest = fmaxf(largest, first[i * stride + a.head_dim]);
  const float shift = largest == -INFINITY ? 0.0f : largest;
  const int d = static_cast<int>(threadIdx.x);
  float total = 0.0f;
  float sum = 0.0f;
  for (int i = 0; i < a.splits; ++i) {
    const float* part = first + i * stride;
    const float factor = exp2f(part[a.head_dim] - shift);
    total += factor * part[d];
    sum += factor * part[a.head_dim + 1];
  }
  const int head = kv_head * a.group + row % a.group;
  a.out[row / a.group * a.ldo + head * a.head_dim + d] = total / sum;
}

template <int kDim, int kKeys>
void launch_attention(const AttentionArguments& a, CUstream_st* stream) {
  constexpr int64_t kShared = (kRows + 4 * kKeys) * (kDim + kPad) * 2;
  const dim3 grid(static_cast<unsigned>((a.rows() + kRows - 1) / kRows),
                  static_cast<unsigned>(a.num_kv_heads), static_cast<unsigned>(a.splits));
  launch("attention", attention_kernel<kDim, kKeys>, grid, kThreads, kShared, stream, a);
}

// Enough ranges of at least kFewestKeys keys for every multiprocessor to have two blocks.
int64_t num_splits(const AttentionShape& s) {
  constexpr int64_t kFewestKeys = 128;
  constexpr int64_t kMostSplits = 256;
  const int64_t rows = s.num_queries * (s.num_heads / s.num_kv_heads);
  const int64_t blocks = (rows + kRows - 1) / kRows * s.num_kv_heads;
  const int64_t wanted = 2 * device_attribute(cudaDevAttrMultiProcessorCount) / blocks;
  const int64_t seen =
      s.causal && s.window > 0 ? std::min(s.num_keys, s.window + s.num_queries) : s.num_keys;
  return std::clamp<int64_t>(std::min(wanted, seen / kFewestKeys), 1, kMostSplits);
}

void check_shape(const AttentionShape& s) {
  QUARRY_CHECK(s.num_kv_heads > 0 && s.num_heads % s.num_kv_heads == 0 && s.num_queries >= 1 &&
                   s.num_keys >= s.num_queries && s.head_dim >= 8 && s.head_dim <= 256 &&
                   s.head_dim % 8 == 0 && s.ldk % 8 == 0 && s.ldq % 4 == 0 && s.ldo % 4 == 0,
               ErrorCode::kInvalidArgument, "attention: ", s.num_heads, " heads, ", s.num_kv_heads,
               " kv heads, head_dim ", s.head_dim, ", ", s.num_queries, " queries, ", s.num_keys,
               " keys, ldq ", s.ldq, ", ldk ", s.ldk, ", ldo ", s.ldo,
               "; want heads a multiple of kv heads, keys >= queries >= 1, head_dim 8..256 and ldk "
               "multiples of 8, ldq and ldo of 4");
}

}  // namespace

int64_t attention_scratch_bytes(const AttentionShape& shape) {
  check_shape(shape);
  const int64_t splits = num_splits(shape);
  return splits == 1 ? 0 : splits * shape.num_heads * shape.num_queries * (shape.head_dim + 2) * 4;
}

void attention(const AttentionShape& shape, const float* q, const uint16_t* k, const uint16_t* v,
               float* out, void* scratch, CUstream_st* stream) {
  check_shape(shape);
  AttentionArguments a = {};
  a.q = q;
  a.k = k;
  a.v = v;
  a.out = out;
  a.partial = static_cast<float*>(scratch);
  a.ldq = shape.ldq;
  a.ldk = shape.ldk;
  a.ldo = shape.ldo;
  a.num_queries = static_cast<int>(shape.num_queries);
  a.num_keys = static_cast<int>(shape.num_keys);
  a.num_kv_heads = static_cast<int>(shape.num_kv_heads);
  a.group = static_cast<int>(shape.num_heads / shape.num_kv_heads);
  a.head_dim = static_cast<int>(shape.head_dim);
  a.causal = shape.causal ? 1 : 0;
  a.window = static_cast<int>(shape.window);
  a.splits = static_cast<int>(num_splits(shape));
  a.scale = shape.scale * kLog2E;
  if (a.head_dim <= 64) {
    launch_attention<64, 64>(a, stream);
  } else if (a.head_dim <= 128) {
    launch_attention<128, 64>(a, stream);
  } else {
    launch_attention<256, 32>(a, stream);
  }
  if (a.splits == 1) return;
  launch("attention: join", join_kernel,
         dim3(static_cast<unsigned>(a.rows()), static_cast<unsigned>(a.num_kv_heads)), a.head_dim,
         0, stream, a);
}

}  // namespace quarry::kernels::cuda
