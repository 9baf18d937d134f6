#pragma once

#include <cstdint>
#include <memory>

#include "generator/kernels/aligned_buffer.h"
#include "generator/kernels/matmul.h"

namespace quarry::kernels {

// How the update B (A x) of an adapter is computed beside a product with packed weights
// (matmul_group): A in integers, by the activations which that product has anyway, B in bytes too
// or in float32.
struct LowRankForm {
  int terms = 0;      // signed bytes of an activation and of an element of A; 0: not beside it
  int64_t block = 0;  // k that share a scale
  bool operator==(const LowRankForm& other) const {
    return terms == other.terms && block == other.block;
  }
};
LowRankForm low_rank_form(const PackedMatrix& weight);

// A [rank, k] and B [n, rank] packed in one form. Of one term A has 8 bits in blocks, and so have
// the rows of B and u = A x where the CPU multiplies bytes; of two A has 16 bits, and B and u stay
// float32. Immutable.
class LowRankPair {
 public:
  // `a` [rank, k] and `scaled_b` [rank, n], B^T times the adapter's scale, are row-major.
  // REQUIRES: form.terms > 0, k a multiple of form.block.
  LowRankPair(const LowRankForm& form, const float* a, const float* scaled_b, int64_t rank,
              int64_t n, int64_t k);

  const LowRankForm& form() const { return form_; }
  int64_t n() const { return n_; }
  // [terms * rank, k]: the integers of A, and below them those of what these leave of it.
  const PackedMatrix& a() const { return *a_; }
  // Asks memory for what add() of these columns reads.
  void prefetch(int64_t begin, int64_t end) const;
  // Bytes of a row of u as add() takes it.
  int64_t u_bytes() const;
  // u of `rows` rows from a()'s products [rows, terms * rank].
  void make_u(const float* products, int64_t rows, uint8_t* u) const;
  // y [rows, end - begin], row stride ldy, += u B^T, columns [begin, end). A row's result does not
  // depend on how rows and columns are cut.
  void add(const uint8_t* u, int64_t rows, int64_t begin, int64_t end, float* y, int64_t ldy) const;

 private:
  int64_t groups() const { return (rank_ + 3) / 4; }
  void pack_bytes(const float* scaled_b);
  void pack_floats(const float* scaled_b);
  void add_tile(const uint8_t* u, int64_t rows, int64_t begin, int64_t end, float* y,
                int64_t ldy) const;

  LowRankForm form_;
  int64_t rank_;
  int64_t n_;
  bool has_bytes_;
  std::unique_ptr<PackedMatrix> a_;
  AlignedBuffer b_;  // LowRankBytes::codes; or tiles of 64 columns, [rank][64] floats
  AlignedBuffer scales_;
};

}  // namespace quarry::kernels
