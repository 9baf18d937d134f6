#pragma once

#include "generator/kernels/aligned_buffer.h"
#include "generator/kernels/matmul.h"
#include "generator/kernels/matmul_twins.h"

namespace quarry::kernels {

// The one PackedMatrix there is: matmul_twins.h describes its bytes. pack_matrix makes it.
class PackedStrips : public PackedMatrix {
 public:
  PackedStrips(const MatrixView& shape, Precision precision, AlignedBuffer codes,
               AlignedBuffer scales, AlignedBuffer offsets)
      : PackedMatrix(shape.n, shape.k, precision),
        codes_(std::move(codes)),
        scales_(std::move(scales)),
        offsets_(std::move(offsets)),
        view_(shape) {
    view_.codes = codes_.data();
    view_.scales = reinterpret_cast<const uint16_t*>(scales_.data());
    view_.offsets = reinterpret_cast<const uint16_t*>(offsets_.data());
  }

  int64_t bytes() const override { return codes_.bytes() + scales_.bytes() + offsets_.bytes(); }
  const MatrixView& view() const { return view_; }

 private:
  AlignedBuffer codes_;
  AlignedBuffer scales_;
  AlignedBuffer offsets_;
  MatrixView view_;
};

inline const MatrixView& view_of(const PackedMatrix& matrix) {
  return static_cast<const PackedStrips&>(matrix).view();
}

}  // namespace quarry::kernels
