#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "data/core/spill_file.h"
#include "generator/quant/quant_state.h"
#include "generator/quant/weight_type.h"

namespace quarry::kernels {

// How the products of a Linear are computed.
enum class Precision {
  kExact,  // weights decoded to float32, float32 multiply-add
  kFast,   // integer activations of 16 bits against 4- and 8-bit weights, bfloat16 against others
  kFast8,  // the same with activations of 8 bits in blocks of 32, or of 64 for codebooks (NF4,
           // FP4), which are in bytes, and dense weights, in bytes with a scale for each 64: half
           // the work where the CPU multiplies bytes (AVX-512 VNNI), nothing won elsewhere
};

// A weight matrix [n, k] (n out_features, k in_features) rearranged once at load for the kernels.
// The layout is the same for every instruction set; matmul_twins.h documents it. Immutable.
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  Precision precision() const { return precision_; }
  // Bytes that one pass over the weights reads.
  virtual int64_t bytes() const = 0;

  // Moves the weights out of memory, where the system may then drop them between two uses. Products
  // stay the same. Not while another thread uses the matrix. Throws as SpillFile::put().
  virtual void move_to(SpillFile& file) = 0;
  // Has moved weights read ahead, because a product comes soon.
  virtual void will_need() const = 0;

 protected:
  PackedMatrix(int64_t n, int64_t k, Precision precision) : n_(n), k_(k), precision_(precision) {}

 private:
  int64_t n_;
  int64_t k_;
  Precision precision_;
};

// Packs n rows of k elements stored as `type` (row-major, rows contiguous, any alignment).
// REQUIRES: k a multiple of the type's block size. Any n, k >= 1.
std::unique_ptr<PackedMatrix> pack_matrix(WeightType type, const void* source, int64_t n, int64_t k,
                                          Precision precision);

// Writes row `row` as k floats. Called from several threads.
using RowReader = std::function<void(int64_t row, float* values)>;
// Packs float weights that are never together in memory but packed: float32 for kExact, bfloat16
// for kFast, bytes for kFast8 (bfloat16 with k no multiple of 64). Any n, k >= 1.
std::unique_ptr<PackedMatrix> pack_rows(int64_t n, int64_t k, Precision precision,
                                        const RowReader& read_row);

// bytes() of what pack_matrix, or pack_quantized with blocks of 64, makes of such a matrix.
int64_t packed_bytes(WeightType type, int64_t n, int64_t k, Precision precision);

// The same of a type that needs_quant_state(): codes of the flattened [n, k] and their state, whose
// sizes must fit. kFast keeps 4-bit codes at 4.25 bits a weight (4.5 when k is no multiple of 64 or
// blocks are of 32) and 8-bit ones at 8.5; it rounds a 4-bit weight by up to 5e-4 of itself and
// 1.5e-4 of its block's absmax. With k no multiple of 32 it holds bfloat16 instead.
std::unique_ptr<PackedMatrix> pack_quantized(WeightType type, const QuantState& state,
                                             const void* codes, int64_t n, int64_t k,
                                             Precision precision);

// Bits of the activations that kFast multiplies with 4- and 8-bit weights. k16 keeps the float
// model's text. k8 rounds activations and the decoded weights to 8 bits in blocks of 64: twice as
// fast where the CPU multiplies bytes (AVX-512 VNNI), good enough for the noise of training, and
// the same as k16 elsewhere.
enum class ActivationBits { k16, k8 };

// y[m, n] = x[m, k] * W^T.  x and y row-major float32 with row strides ldx >= k and ldy >= n; y is
// overwritten and must not overlap x. Runs on parallel_for's threads; any m >= 0. The result of a
// row does not depend on m or on the other rows (batching never changes an answer).
void matmul(const PackedMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y,
            int64_t ldy, ActivationBits bits = ActivationBits::k16);

// Where a product leaves its input rounded to bfloat16 on the way, in rows `stride` elements apart.
// Training keeps that copy; reading the input once costs less than twice.
struct RoundedCopy {
  uint16_t* rows = nullptr;  // null: none is wanted
  int64_t stride = 0;
};

// matmul of one x by several weights with the same k (q, k and v; gate and up): x is prepared and
// the threads are woken once for all of them. Throws kInvalidArgument when the k differ.
struct MatmulTarget {
  const PackedMatrix* weight = nullptr;
  float* y = nullptr;  // [m, weight->n()], row stride ldy
  int64_t ldy = 0;
  const float* bias = nullptr;  // [weight->n()], added to every row of the product; or null
};
// An update B (A x) that rows [row_begin, row_end) of a target get beside their product, in the
// columns from `column` on.
class LowRankPair;
struct LowRankUpdate {
  const LowRankPair* pair = nullptr;  // borrowed; of low_rank_form(weight)
  size_t target = 0;
  int64_t column = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;
};
// `updates` go with k16 only; without them results are those of matmul, bit for bit.
void matmul_group(const std::vector<MatmulTarget>& targets, const float* x, int64_t m, int64_t ldx,
                  ActivationBits bits = ActivationBits::k16, const RoundedCopy& copy = {},
                  const std::vector<LowRankUpdate>& updates = {});

// x[m, k] = y[m, n] * W: the gradient of matmul with respect to its input, for a frozen weight.
// Decodes one panel of W at a time. kExact multiplies in float32; kFast rounds y and the decoded
// weights to bfloat16 (AVX-512), 12 and 16 bits (AVX2) or, for k8 and where that is faster, to 8
// bits in blocks of 64, and sums in float32. x is overwritten and must not overlap y. A row of the
// result does not depend on the other rows.
void matmul_transposed(const PackedMatrix& weight, const float* y, int64_t m, int64_t ldy, float* x,
                       int64_t ldx, ActivationBits bits = ActivationBits::k16,
                       const RoundedCopy& copy = {});

// The plain twin of matmul for tests: same rounding steps (block-quantized activations for kFast),
// no SIMD, one thread.
void matmul_reference(const PackedMatrix& weight, const float* x, int64_t m, int64_t ldx, float* y,
                      int64_t ldy, ActivationBits bits = ActivationBits::k16);

// The plain twin of matmul_transposed: no SIMD, one thread, the same rounding.
void matmul_transposed_reference(const PackedMatrix& weight, const float* y, int64_t m, int64_t ldy,
                                 float* x, int64_t ldx, ActivationBits bits = ActivationBits::k16);

// Decodes row `row` (an embedding lookup) to k floats.
void decode_row(const PackedMatrix& weight, int64_t row, float* destination);

}  // namespace quarry::kernels
