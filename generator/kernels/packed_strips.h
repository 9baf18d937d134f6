#pragma once

#include "generator/kernels/aligned_buffer.h"
#include "generator/kernels/matmul.h"
#include "generator/kernels/matmul_twins.h"

namespace quarry::kernels {

// The one PackedMatrix there is: matmul_twins.h describes its bytes. pack_matrix makes it.
class PackedStrips : public PackedMatrix {
 public:
  PackedStrips(const MatrixView& shape, Precision precision, AlignedBuffer codes,
               AlignedBuffer scales = {}, AlignedBuffer offsets = {}, AlignedBuffer row_scales = {})
      : PackedMatrix(shape.n, shape.k, precision),
        codes_(std::move(codes)),
        scales_(std::move(scales)),
        offsets_(std::move(offsets)),
        row_scales_(std::move(row_scales)),
        view_(shape) {
    point_view();
  }

  int64_t bytes() const override {
    return codes_.bytes() + scales_.bytes() + offsets_.bytes() + row_scales_.bytes();
  }
  const MatrixView& view() const { return view_; }

  void move_to(SpillFile& file) override {
    for (AlignedBuffer* part : {&codes_, &scales_, &offsets_, &row_scales_}) part->move_to(file);
    point_view();
  }
  void will_need() const override {
    for (const AlignedBuffer* part : {&codes_, &scales_, &offsets_, &row_scales_}) {
      part->will_need();
    }
  }

 private:
  void point_view() {
    view_.codes = codes_.data();
    view_.scales = reinterpret_cast<const uint16_t*>(scales_.data());
    view_.offsets = reinterpret_cast<const uint16_t*>(offsets_.data());
    view_.row_scales = reinterpret_cast<const float*>(row_scales_.data());
  }

  AlignedBuffer codes_;
  AlignedBuffer scales_;
  AlignedBuffer offsets_;
  AlignedBuffer row_scales_;
  MatrixView view_;
};

inline const MatrixView& view_of(const PackedMatrix& matrix) {
  return static_cast<const PackedStrips&>(matrix).view();
}

// Neighbours in a row that share a scale where a type needs_quant_state().
constexpr int64_t kQuantizedBlock = 32;

// A matrix whose layout is still to be chosen. Throws kInvalidArgument unless n, k >= 1.
MatrixView matrix_shape(int64_t n, int64_t k);

// kBytes around kByteCenter in blocks of `block`.
MatrixView byte_shape(int64_t n, int64_t k, int64_t block);
// Writes the codes of one (row, block) into its strip.
void place_codes(Layout layout, const uint8_t* codes, int64_t block, uint8_t* block_start,
                 int64_t row);
// The largest magnitude.
float largest_of(const float* values, int64_t count);

// Strips of any weights: kF32 for kExact, kBF16 for kFast, kBytes for kFast8.
std::unique_ptr<PackedMatrix> pack_dense_rows(MatrixView shape, Precision precision,
                                              const RowReader& read_row);

}  // namespace quarry::kernels
