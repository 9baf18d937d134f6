// Attention on tensor cores with an online softmax over tiles of keys (Milakov & Gimelshein 2018,
// arXiv:1805.02867; Dao 2023, arXiv:2307.08691), for prompts and, with the keys split over blocks
// (Flash-Decoding, Dao et al. 2023), for single queries.
#include <algorithm>

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
  float* out;
  float* partial;  // [partial rows][kv heads][head_dim + 2]: sums, maximum, sum of weights
  const PagedSequence* sequences;
  const AttentionTile* tiles;
  const uint16_t* const* pages;
  int64_t k_offset;
  int64_t v_offset;
  int64_t ldq;
  int64_t ldo;
  int num_kv_heads;
  int group;  // heads of a kv head
  int head_dim;
  int causal;
  int window;
  float scale;  // times log2(e)
};

__device__ inline int rows_of(const AttentionArguments& a, const PagedSequence& s) {
  return s.num_queries * a.group;
}

struct KeyRange {
  int begin;
  int end;
};

// Keys that query `query` sees.
__device__ inline KeyRange visible_keys(const AttentionArguments& a, const PagedSequence& s,
                                        int query) {
  if (a.causal == 0) return {0, s.num_keys};
  const int end = s.num_keys - s.num_queries + query + 1;
  return {a.window > 0 && end > a.window ? end - a.window : 0, end};
}

// Tiles of this block's split, of those that its rows see.
template <int kKeys>
__device__ inline KeyRange tiles_of_block(const AttentionArguments& a, const PagedSequence& s,
                                          int first_row) {
  const int rows = rows_of(a, s);
  const int last_row = (first_row + kRows < rows ? first_row + kRows : rows) - 1;
  const int begin = visible_keys(a, s, first_row / a.group).begin / kKeys;
  const int end = (visible_keys(a, s, last_row / a.group).end + kKeys - 1) / kKeys;
  const int split = static_cast<int>(blockIdx.z);
  return {begin + (end - begin) * split / s.splits, begin + (end - begin) * (split + 1) / s.splits};
}

// Rows of the block's queries as scaled halves; 0 past the last row and past head_dim.
template <int kDim>
__device__ inline void load_queries(const AttentionArguments& a, const PagedSequence& s,
                                    int kv_head, int first_row, uint16_t* out) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kDim / 4; i += kThreads) {
    const int row = i / (kDim / 4);
    const int d = i % (kDim / 4) * 4;
    float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
    if (first_row + row < rows_of(a, s) && d < a.head_dim) {
      const int query = s.first_row + (first_row + row) / a.group;
      const int head = kv_head * a.group + (first_row + row) % a.group;
      v = *reinterpret_cast<const float4*>(a.q + query * a.ldq + head * a.head_dim + d);
    }
    *reinterpret_cast<uint2*>(out + row * (kDim + kPad) + d) =
        uint2{pack_halves(v.x * a.scale, v.y * a.scale), pack_halves(v.z * a.scale, v.w * a.scale)};
  }
}

// Starts copying tile `tile` of one kv head's keys or values, which begin at `offset` of a page;
// rows past the last key become 0.
template <int kDim, int kKeys>
__device__ inline void copy_tile(const AttentionArguments& a, const PagedSequence& s,
                                 int64_t offset, int kv_head, int tile, uint16_t* out) {
  static_assert(kPageKeys % kKeys == 0, "a tile lies in one page");
  const int64_t ldk = static_cast<int64_t>(a.num_kv_heads) * a.head_dim;
  const int first_key = tile * kKeys;
  const uint16_t* page = a.pages[s.first_page + first_key / kPageKeys] + offset +
                         first_key % kPageKeys * ldk + kv_head * a.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * kDim / 8; i += kThreads) {
    const int row = i / (kDim / 8);
    const int d = i % (kDim / 8) * 8;
    const bool inside = first_key + row < s.num_keys && d < a.head_dim;
    copy_async(out + row * (kDim + kPad) + d, page + (inside ? row * ldk + d : 0), inside);
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

// Where a split's result for one row of its sequence goes.
__device__ inline float* partial_of(const AttentionArguments& a, const PagedSequence& s, int split,
                                    int kv_head, int row) {
  const int64_t partial_row =
      s.first_partial_row + static_cast<int64_t>(split) * rows_of(a, s) + row;
  return a.partial + (partial_row * a.num_kv_heads + kv_head) * (a.head_dim + 2);
}

// first_row: of this warp.
template <int kDim>
__device__ inline void write_rows(const AttentionArguments& a, const PagedSequence& s, int kv_head,
                                  int first_row, int lane, const Softmax& softmax,
                                  const float out[][4]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float sum = sum_lanes<4>(softmax.sum[h]);
    const int row = first_row + lane / 4 + 8 * h;
    if (row >= rows_of(a, s)) continue;
    const int head = kv_head * a.group + row % a.group;
    float* target = s.splits == 1
                        ? a.out + (s.first_row + row / a.group) * a.ldo + head * a.head_dim
                        : partial_of(a, s, static_cast<int>(blockIdx.z), kv_head, row);
    const float factor = s.splits == 1 ? 1.0f / sum : 1.0f;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j) {
      const int d = 8 * j + 2 * (lane % 4);
      if (d >= a.head_dim) continue;
      *reinterpret_cast<float2*>(target + d) =
          float2{out[j][2 * h] * factor, out[j][2 * h + 1] * factor};
    }
    if (s.splits > 1 && lane % 4 == 0) {
      target[a.head_dim] = softmax.maximum[h];
      target[a.head_dim + 1] = sum;
    }
  }
}

// kDim: head_dim padded. Grid: tiles of kRows rows, kv heads, splits. Shared memory: queries, two
// tiles of keys, two of values.
template <int kDim, int kKeys>
__global__ void __launch_bounds__(kThreads) attention_kernel(AttentionArguments a) {
  constexpr int kTileHalves = kKeys * (kDim + kPad);
  const AttentionTile place = a.tiles[blockIdx.x];
  const PagedSequence sequence = a.sequences[place.sequence];
  if (static_cast<int>(blockIdx.z) >= sequence.splits) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int kv_head = static_cast<int>(blockIdx.y);
  uint16_t* q = reinterpret_cast<uint16_t*>(shared_memory());
  uint16_t* keys = q + kRows * (kDim + kPad);
  uint16_t* values = keys + 2 * kTileHalves;
  const KeyRange tiles = tiles_of_block<kKeys>(a, sequence, place.first_pair);

  Softmax s;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    s.maximum[h] = -INFINITY;
    s.sum[h] = 0.0f;
    s.visible[h] =
        visible_keys(a, sequence, (place.first_pair + 16 * warp + lane / 4 + 8 * h) / a.group);
  }
  float out[kDim / 8][4] = {};
  const bool has_rows = place.first_pair + 16 * warp < rows_of(a, sequence);
  if (tiles.begin < tiles.end) {
    copy_tile<kDim, kKeys>(a, sequence, a.k_offset, kv_head, tiles.begin, keys);
    copy_tile<kDim, kKeys>(a, sequence, a.v_offset, kv_head, tiles.begin, values);
  }
  commit_copies();
  load_queries<kDim>(a, sequence, kv_head, place.first_pair, q);
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const int now = (tile - tiles.begin) % 2;
    if (tile + 1 < tiles.end) {
      const int next = (1 - now) * kTileHalves;
      copy_tile<kDim, kKeys>(a, sequence, a.k_offset, kv_head, tile + 1, keys + next);
      copy_tile<kDim, kKeys>(a, sequence, a.v_offset, kv_head, tile + 1, values + next);
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
  if (has_rows) {
    write_rows<kDim>(a, sequence, kv_head, place.first_pair + 16 * warp, lane, s, out);
  }
}

// Joins the splits of a row. Grid: sequences, kv heads, rows; one thread for each of head_dim.
__global__ void join_kernel(AttentionArguments a) {
  const PagedSequence s = a.sequences[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y);
  const int row = static_cast<int>(blockIdx.z);
  if (s.splits == 1 || row >= rows_of(a, s)) return;
  float largest = -INFINITY;
  for (int i = 0; i < s.splits; ++i) {
    largest = fmaxf(largest, partial_of(a, s, i, kv_head, row)[a.head_dim]);
  }
  const float shift = largest == -INFINITY ? 0.0f : largest;
  const int d = static_cast<int>(threadIdx.x);
  float total = 0.0f;
  float sum = 0.0f;
  for (int i = 0; i < s.splits; ++i) {
    const float* part = partial_of(a, s, i, kv_head, row);
    const float factor = exp2f(part[a.head_dim] - shift);
    total += factor * part[d];
    sum += factor * part[a.head_dim + 1];
  }
  const int head = kv_head * a.group + row % a.group;
  a.out[(s.first_row + row / a.group) * a.ldo + head * a.head_dim + d] = total / sum;
}

template <int kDim, int kKeys>
void launch_attention(const AttentionPlan& plan, const AttentionArguments& a, CUstream_st* stream) {
  constexpr int64_t kShared = (kRows + 4 * kKeys) * (kDim + kPad) * 2;
  const dim3 grid(static_cast<unsigned>(plan.tiles.size()), static_cast<unsigned>(a.num_kv_heads),
                  static_cast<unsigned>(plan.most_splits));
  launch("attention", attention_kernel<kDim, kKeys>, grid, kThreads, kShared, stream, a);
}

// Ranges of keys of a sequence whose queries one block takes: enough for a long one to use the
// whole GPU. Depends on nothing else in the step, so that neither does the result.
int64_t num_splits(int64_t rows, int64_t num_keys) {
  constexpr int64_t kFewestKeys = 128;
  constexpr int64_t kMostSplits = 64;
  return rows > kRows ? 1 : std::clamp<int64_t>(num_keys / kFewestKeys, 1, kMostSplits);
}

int64_t power_of_two_from(int64_t value) {
  int64_t power = 1;
  while (power < value) power *= 2;
  return power;
}

}  // namespace

AttentionPlan plan_attention(const std::vector<AttentionSequence>& sequences, int64_t group) {
  AttentionPlan plan;
  int64_t first_row = 0;
  int64_t first_page = 0;
  for (const AttentionSequence& s : sequences) {
    QUARRY_CHECK(s.num_queries >= 1 && s.num_keys >= s.num_queries, ErrorCode::kInvalidArgument,
                 "attention: ", s.num_queries, " queries of ", s.num_keys,
                 " keys; want keys >= queries >= 1");
    const int64_t rows = s.num_queries * group;
    const int64_t splits = num_splits(rows, s.num_keys);
    plan.most_splits = std::max(plan.most_splits, splits);

    const auto number = static_cast<int32_t>(plan.sequences.size());
    // Those that see most keys first.
    for (int64_t row = (rows - 1) / kRows * kRows; row >= 0; row -= kRows) {
      plan.tiles.push_back({number, static_cast<int32_t>(row)});
    }
    plan.sequences.push_back({static_cast<int32_t>(first_row), static_cast<int32_t>(s.num_queries),
                              static_cast<int32_t>(s.num_keys), static_cast<int32_t>(first_page),
                              static_cast<int32_t>(splits),
                              static_cast<int32_t>(plan.partial_rows)});
    if (splits > 1) {
      plan.most_split_rows = std::max(plan.most_split_rows, rows);
      plan.partial_rows += splits * rows;
    }
    first_row += s.num_queries;
    first_page += (s.num_keys + kPageKeys - 1) / kPageKeys;
  }
  plan.most_splits = power_of_two_from(plan.most_splits);
  plan.most_split_rows = power_of_two_from(plan.most_split_rows);
  return plan;
}

int64_t attention_scratch_bytes(const AttentionPlan& plan, int64_t num_kv_heads, int64_t head_dim) {
  return plan.partial_rows * num_kv_heads * (head_dim + 2) * 4;
}

void attention(const AttentionPlan& plan, const PagedAttention& p, const float* q, float* out,
               void* scratch, CUstream_st* stream) {
  QUARRY_CHECK(p.num_kv_heads > 0 && p.num_heads % p.num_kv_heads == 0 && p.head_dim >= 8 &&
                   p.head_dim <= 256 && p.head_dim % 8 == 0 && p.ldq % 4 == 0 && p.ldo % 4 == 0,
               ErrorCode::kInvalidArgument, "attention: ", p.num_heads, " heads, ", p.num_kv_heads,
               " kv heads, head_dim ", p.head_dim, ", ldq ", p.ldq, ", ldo ", p.ldo,
               "; want heads a multiple of kv heads, head_dim 8..256 and a multiple of 8, ldq and "
               "ldo of 4");
  if (plan.tiles.empty()) return;
  AttentionArguments a = {};
  a.q = q;
  a.out = out;
  a.partial = static_cast<float*>(scratch);
  a.sequences = p.sequences;
  a.tiles = p.tiles;
  a.pages = p.pages;
  a.k_offset = p.k_offset;
  a.v_offset = p.v_offset;
  a.ldq = p.ldq;
  a.ldo = p.ldo;
  a.num_kv_heads = static_cast<int>(p.num_kv_heads);
  a.group = static_cast<int>(p.num_heads / p.num_kv_heads);
  a.head_dim = static_cast<int>(p.head_dim);
  a.causal = p.causal ? 1 : 0;
  a.window = static_cast<int>(p.window);

  a.scale = p.scale * kLog2E;
  if (a.head_dim <= 64) {
    launch_attention<64, 64>(plan, a, stream);
  } else if (a.head_dim <= 128) {
    launch_attention<128, 64>(plan, a, stream);
  } else {
    launch_attention<256, 32>(plan, a, stream);
  }
  if (plan.most_splits == 1) return;
  launch("attention: join", join_kernel,
         dim3(static_cast<unsigned>(plan.sequences.size()), static_cast<unsigned>(a.num_kv_heads),
              static_cast<unsigned>(plan.most_split_rows)),
         a.head_dim, 0, stream, a);
}

}  // namespace quarry::kernels::cuda
