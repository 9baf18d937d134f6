#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "generator/kernels/elementwise.h"
#include "generator/kernels/matmul.h"

struct CUstream_st;  // cudaStream_t is a pointer to it

// The CUDA versions, built with QUARRY_CUDA=ON, for compute capability 8.0 and later. All pointers
// are device memory, 16-byte aligned, except where said; strides of rows that are read (ldx, ldq)
// are multiples of 4 floats. The calls are asynchronous on `stream` (null: the default stream), may
// be captured into a graph, and throw kInternal when a launch is refused, kInvalidArgument for
// shapes. They are thread-safe as long as their outputs and scratch are distinct.
namespace quarry::kernels::cuda {

struct DeviceMatrixView;

// A packed matrix as 4- or 8-bit codes, rearranged for the current device. Immutable. 4-bit codes
// take as many bytes as on the CPU (k padded to a multiple of 64).
class DeviceMatrix {
 public:
  // `matrix` is in host memory and is not kept. bfloat16 and float32 are rounded to bytes with a
  // scale for each 64, as kFast8 does. Throws kUnavailable when the device has too little memory.
  explicit DeviceMatrix(const PackedMatrix& matrix);
  ~DeviceMatrix();
  DeviceMatrix(const DeviceMatrix&) = delete;
  DeviceMatrix& operator=(const DeviceMatrix&) = delete;

  int64_t n() const;
  int64_t k() const;
  // Bytes that one pass over the weights reads.
  int64_t bytes() const;
  const DeviceMatrixView& view() const;

 private:
  struct Storage;
  std::unique_ptr<Storage> storage_;
};

// y[m, n] = x[m, k] * W^T, as kernels::matmul: float32 in and out. Weights and x are multiplied as
// IEEE halves (x by a factor for each row, so that no value is too large) and summed in float32; an
// output differs from exact arithmetic by at most 2^-11 of the sum of its products' magnitudes.
// Within gemv, and within gemm, the result of a row depends neither on m nor on the other rows; the
// two add in different orders.
constexpr int64_t kGemvRows = 8;
// 1 to kGemvRows rows: reads the weights once, at the speed of memory.
void gemv(const DeviceMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy,
          CUstream_st* stream);
// Any number of rows on tensor cores. `scratch` has gemm_scratch_bytes().
int64_t gemm_scratch_bytes(int64_t m, int64_t k);
void gemm(const DeviceMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy,
          void* scratch, CUstream_st* stream);

// ---- Attention ----

// Keys and values lie in pages of kPageKeys tokens, as in KvCache (generator/nn/kv_cache.h).
constexpr int64_t kPageKeys = 64;

// What a step asks of one sequence; the rows of the sequences follow each other.
struct AttentionSequence {
  int64_t num_queries = 0;  // the last ones of
  int64_t num_keys = 0;     // these
};

struct PagedSequence {
  int32_t first_row;
  int32_t num_queries;
  int32_t num_keys;
  int32_t first_page;         // in the table of pages
  int32_t splits;             // ranges of keys that blocks share
  int32_t first_partial_row;  // in the scratch, of splits > 1
};
// (query, head) pairs of a kv head that a block takes.
struct AttentionTile {
  int32_t sequence;
  int32_t first_pair;  // in the sequence
};

// Who does what, for every layer of a step. `sequences` and `tiles` are to be copied to the device.
// How a sequence is shared out does not depend on the others.
struct AttentionPlan {
  std::vector<PagedSequence> sequences;
  std::vector<AttentionTile> tiles;
  // Powers of two: the shape of a launch seldom changes.
  int64_t most_splits = 1;
  int64_t most_split_rows = 1;
  int64_t partial_rows = 0;  // in the scratch
};
// group: query heads of a kv head. The pages of sequence i follow those of i - 1 in the table.
// Throws kInvalidArgument.
AttentionPlan plan_attention(const std::vector<AttentionSequence>& sequences, int64_t group);

struct PagedAttention {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t ldq = 0;
  int64_t ldo = 0;
  float scale = 1.0f;
  bool causal = true;
  int64_t window = 0;  // 0: none
  // Device memory: the plan's, and the pages. Key t of a page is at k_offset + t * num_kv_heads *
  // head_dim, as IEEE half bits, its value at v_offset + the same.
  const PagedSequence* sequences = nullptr;
  const AttentionTile* tiles = nullptr;
  const uint16_t* const* pages = nullptr;
  int64_t k_offset = 0;
  int64_t v_offset = 0;
};

// As kernels::attention of every sequence. Queries and probabilities are rounded to halves, too;
// sums and softmax are float32. Few queries over many keys are shared out by ranges of keys, whose
// sums are joined in a fixed order. REQUIRES: head_dim a multiple of 8. `scratch` has
// attention_scratch_bytes(), which may be 0.
int64_t attention_scratch_bytes(const AttentionPlan& plan, int64_t num_kv_heads, int64_t head_dim);
void attention(const AttentionPlan& plan, const PagedAttention& shape, const float* q, float* out,
               void* scratch, CUstream_st* stream);

// Stores the keys and values of a step as halves: of row t, `width` floats each at keys + t * ld
// and values + t * ld, to slots[t] + k_offset and + v_offset. slots is device memory.
void store_key_values(const float* keys, const float* values, int64_t ld, int64_t rows,
                      int64_t width, uint16_t* const* slots, int64_t k_offset, int64_t v_offset,
                      CUstream_st* stream);

// ---- Elementwise ----

// As those of elementwise.h; out may be x.
void rms_norm(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width,
              float* out, CUstream_st* stream);
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int64_t rows,
                int64_t width, float* out, CUstream_st* stream);
// RMSNorm of `num_heads` heads of every row, in place: head h of row t at x + t * ldx + h *
// head_dim.
void head_norm(float* x, const float* weight, float epsilon, int64_t rows, int64_t num_heads,
               int64_t head_dim, int64_t ldx, CUstream_st* stream);
enum class Gate { kSilu, kGeluTanh };
// gate_up [rows, 2 width], gates first:  out [rows, width] = gate(g) * u.
void gated_product(Gate gate, const float* gate_up, int64_t rows, int64_t width, float* out,
                   CUstream_st* stream);
// In place, with the error function (Hendrycks & Gimpel 2016, arXiv:1606.08415).
void gelu(float* x, int64_t count, CUstream_st* stream);
// y += x.
void add(const float* x, int64_t count, float* y, CUstream_st* stream);
// y [rows, width] += bias [width].
void add_bias(const float* bias, int64_t rows, int64_t width, float* y, CUstream_st* stream);
// out [count, width]: rows indices[i] of x [.., width]. out is not x.
void gather_rows(const float* x, const int32_t* indices, int64_t count, int64_t width, float* out,
                 CUstream_st* stream);
// Turns the first rotary_dim values of each head, as kernels::rope does those of heads of that
// size.
void rope(float* x, const int32_t* positions, int64_t num_tokens, int64_t num_heads,
          int64_t head_dim, int64_t rotary_dim, int64_t ldx, const float* cos_table,
          const float* sin_table, RopePairing pairing, CUstream_st* stream);

// ---- LoRA ----

// What an adapter adds to rows [begin, end):  y += (x A^T) B  (Hu et al. 2021, arXiv:2106.09685),
// float32 throughout. The result of a row does not depend on the other rows.
struct LoraSpan {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t rank = 0;          // at most kMaxSpanRank
  const float* a = nullptr;  // [rank, k]
  const float* b = nullptr;  // [rank, n], times the adapter's scale: LoraWeights::scaled_b
};
constexpr int64_t kMaxSpanRank = 1536;
// Of all adapters of a batch in two launches (16 spans each). `spans` is in host memory; they are
// disjoint. x [m, k] and y [m, n] have row strides ldx, ldy. `scratch` has lora_scratch_bytes().
int64_t lora_scratch_bytes(const std::vector<LoraSpan>& spans);
void add_lora(const std::vector<LoraSpan>& spans, const float* x, int64_t k, int64_t ldx, float* y,
              int64_t n, int64_t ldy, void* scratch, CUstream_st* stream);

}  // namespace quarry::kernels::cuda
