#include "generator/kernels/low_rank_pair.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "data/core/cpu_isa.h"
#include "data/core/error.h"
#include "generator/kernels/gemm.h"
#include "generator/kernels/low_rank_pair_twins.h"
#include "generator/kernels/packed_strips.h"
#include "generator/quant/half.h"

namespace quarry::kernels {
namespace {

// The whole number of `scale`s nearest to a value, of at most a byte.
int byte_code(float value, float scale) {
  const float most = float{kByteMax};
  return static_cast<int>(std::min(std::max(std::nearbyint(value / scale), -most), most));
}

}  // namespace

namespace portable {

void add_low_rank_bytes(const LowRankBytes& b, const LowRankRows& rows, int64_t begin, int64_t end,
                        float* y, int64_t ldy) {
  for (int64_t row = 0; row < rows.count; ++row) {
    const uint8_t* u = rows.u + row * rows.row_bytes;
    float scale;
    int32_t center;
    std::memcpy(&scale, u + 4 * b.groups, sizeof(scale));
    std::memcpy(&center, u + 4 * b.groups + 4, sizeof(center));
    for (int64_t column = begin; column < end; ++column) {
      const uint8_t* codes =
          b.codes + column / kStripRows * b.groups * 64 + column % kStripRows * 4;
      int32_t sum = center;
      for (int64_t i = 0; i < 4 * b.groups; ++i) {
        sum += codes[i / 4 * 64 + i % 4] * static_cast<int8_t>(u[i]);
      }
      float& out = y[row * ldy + column - begin];
      out = std::fma(static_cast<float>(sum), b.scales[column] * scale, out);
    }
  }
}

void round_low_rank_row(const float* values, int64_t rank, uint8_t* u) {
  const int64_t bytes = (rank + 3) / 4 * 4;
  float scale = largest_of(values, rank) / float{kByteMax};
  int32_t center = 0;
  std::memset(u, 0, static_cast<size_t>(bytes));
  const bool finite = std::all_of(values, values + rank, [](float x) { return std::isfinite(x); });
  if (!finite) scale = std::nanf("");
  for (int64_t r = 0; r < rank && scale > 0.0f; ++r) {
    const int code = byte_code(values[r], scale);
    u[r] = static_cast<uint8_t>(code);
    center -= kByteCenter * code;
  }
  std::memcpy(u + bytes, &scale, sizeof(scale));
  std::memcpy(u + bytes + 4, &center, sizeof(center));
}

}  // namespace portable

namespace {

// Columns of B that lie together: those of a register tile of gemm.
constexpr int64_t kTileColumns = 64;
constexpr int64_t kBlockOfFloats = 32;

// Rows of A while they are packed as kBytes.
class BytePacker {
 public:
  BytePacker(int64_t n, int64_t k, int64_t block) : shape_(byte_shape(n, k, block)) {
    codes_ = AlignedBuffer(shape_.strips * shape_.strip_bytes);
    scales_ = AlignedBuffer(shape_.strips * shape_.blocks * kStripRows * 2);
    row_scales_ = AlignedBuffer(shape_.strips * kStripRows * 4);
    std::memset(codes_.data(), kByteCenter, static_cast<size_t>(codes_.bytes()));
    std::memset(scales_.data(), 0, static_cast<size_t>(scales_.bytes()));
    std::memset(row_scales_.data(), 0, static_cast<size_t>(row_scales_.bytes()));
  }

  // Takes from `values` what row `row` then holds.
  void pack(int64_t row, float* values) {
    const float largest = largest_of(values, shape_.k);
    const float row_scale = largest / float{kByteMax};
    if (!(row_scale > 0.0f)) return;
    reinterpret_cast<float*>(row_scales_.data())[row] = row_scale;
    uint8_t* strip = codes_.data() + row / kStripRows * shape_.strip_bytes;
    const int64_t lane = row % kStripRows;
    uint8_t coded[kByteBlock];
    for (int64_t b = 0; b < shape_.blocks; ++b) {
      float* block = values + b * shape_.block;
      const uint16_t half = quant::float_to_half(largest_of(block, shape_.block) / largest);
      reinterpret_cast<uint16_t*>(
          scales_.data())[scale_slot(shape_, row / kStripRows, b, 0) + lane] = half;
      const float scale = quant::half_to_float(half) * row_scale;
      if (!(scale > 0.0f)) continue;
      for (int64_t i = 0; i < shape_.block; ++i) {
        const int code = byte_code(block[i], scale);
        coded[i] = static_cast<uint8_t>(code + kByteCenter);
        block[i] -= static_cast<float>(code) * scale;
      }
      place_codes(Layout::kBytes, coded, shape_.block, strip + b * shape_.block * kStripRows, lane);
    }
  }

  std::unique_ptr<PackedMatrix> finish(int terms) {
    return std::make_unique<PackedStrips>(shape_, terms == 1 ? Precision::kFast8 : Precision::kFast,
                                          std::move(codes_), std::move(scales_), AlignedBuffer(),
                                          std::move(row_scales_));
  }

 private:
  MatrixView shape_;
  AlignedBuffer codes_;
  AlignedBuffer scales_;
  AlignedBuffer row_scales_;
};

}  // namespace

LowRankForm low_rank_form(const PackedMatrix& weight) {
  const MatrixView& w = view_of(weight);
  LowRankForm form;
  form.block = is_integer(w.layout) ? w.block : kBlockOfFloats;
  if (weight.precision() == Precision::kExact || w.k % form.block != 0) return form;
  form.terms = weight.precision() == Precision::kFast8 ? 1 : 2;
  return form;
}

LowRankPair::LowRankPair(const LowRankForm& form, const float* a, const float* scaled_b,
                         int64_t rank, int64_t n, int64_t k)
    : form_(form), rank_(rank), n_(n), has_bytes_(form.terms == 1 && cpu_isa() == CpuIsa::kAvx512) {
  QUARRY_DCHECK(form.terms > 0 && k % form.block == 0);
  BytePacker packer(form.terms * rank, k, form.block);
  std::vector<float> values(static_cast<size_t>(k));
  for (int64_t r = 0; r < rank; ++r) {
    std::copy_n(a + r * k, k, values.data());
    for (int term = 0; term < form.terms; ++term) packer.pack(term * rank + r, values.data());
  }
  a_ = packer.finish(form.terms);
  if (has_bytes_) {
    pack_bytes(scaled_b);
  } else {
    pack_floats(scaled_b);
  }
}

void LowRankPair::pack_bytes(const float* scaled_b) {
  const int64_t strips = (n_ + kStripRows - 1) / kStripRows;
  b_ = AlignedBuffer(strips * groups() * 64);
  scales_ = AlignedBuffer(strips * kStripRows * 4);
  std::memset(b_.data(), kByteCenter, static_cast<size_t>(b_.bytes()));
  std::memset(scales_.data(), 0, static_cast<size_t>(scales_.bytes()));
  std::vector<float> column(static_cast<size_t>(rank_));
  for (int64_t j = 0; j < n_; ++j) {
    for (int64_t r = 0; r < rank_; ++r) column[static_cast<size_t>(r)] = scaled_b[r * n_ + j];
    const float scale = largest_of(column.data(), rank_) / float{kByteMax};
    if (!(scale > 0.0f)) continue;
    reinterpret_cast<float*>(scales_.data())[j] = scale;
    uint8_t* codes = b_.data() + j / kStripRows * groups() * 64 + j % kStripRows * 4;
    for (int64_t r = 0; r < rank_; ++r) {
      const int code = byte_code(column[static_cast<size_t>(r)], scale);
      codes[r / 4 * 64 + r % 4] = static_cast<uint8_t>(code + kByteCenter);
    }
  }
}

void LowRankPair::pack_floats(const float* scaled_b) {
  const int64_t tiles = (n_ + kTileColumns - 1) / kTileColumns;
  b_ = AlignedBuffer(tiles * rank_ * kTileColumns * 4);
  std::memset(b_.data(), 0, static_cast<size_t>(b_.bytes()));
  float* floats = reinterpret_cast<float*>(b_.data());
  for (int64_t r = 0; r < rank_; ++r) {
    for (int64_t j = 0; j < n_; ++j) {
      const int64_t row = j / kTileColumns * rank_ + r;
      floats[row * kTileColumns + j % kTileColumns] = scaled_b[r * n_ + j];
    }
  }
}

namespace {

void prefetch_bytes(const uint8_t* begin, const uint8_t* end) {
  constexpr int64_t kLine = 64;
  for (; begin < end; begin += kLine) __builtin_prefetch(begin, 0, 2);
}

}  // namespace

void LowRankPair::prefetch(int64_t begin, int64_t end) const {
  const int64_t width = has_bytes_ ? kStripRows : kTileColumns;
  const int64_t bytes = has_bytes_ ? groups() * 64 : rank_ * kTileColumns * 4;
  prefetch_bytes(b_.data() + begin / width * bytes, b_.data() + (end + width - 1) / width * bytes);
  if (has_bytes_) prefetch_bytes(scales_.data() + begin * 4, scales_.data() + end * 4);
}

int64_t LowRankPair::u_bytes() const { return has_bytes_ ? 4 * groups() + 8 : 4 * rank_; }

void LowRankPair::make_u(const float* products, int64_t rows, uint8_t* u) const {
  const auto round =
      cpu_isa() == CpuIsa::kAvx512 ? avx512::round_low_rank_row : portable::round_low_rank_row;
  for (int64_t row = 0; row < rows; ++row, products += form_.terms * rank_, u += u_bytes()) {
    if (has_bytes_) {
      round(products, rank_, u);
      continue;
    }
    float* sums = reinterpret_cast<float*>(u);
    for (int64_t r = 0; r < rank_; ++r) {
      sums[r] = form_.terms == 2 ? products[r] + products[rank_ + r] : products[r];
    }
  }
}

void LowRankPair::add_tile(const uint8_t* u, int64_t rows, int64_t begin, int64_t end, float* y,
                           int64_t ldy) const {
  GemmShape shape;
  shape.m = rows;
  shape.n = end - begin;
  shape.k = shape.a_row_stride = rank_;
  shape.ldb = kTileColumns;
  shape.ldc = ldy;
  shape.accumulate = true;
  const int64_t at = begin / kTileColumns * rank_ * kTileColumns + begin % kTileColumns;
  gemm_serial(shape, reinterpret_cast<const float*>(u),
              reinterpret_cast<const float*>(b_.data()) + at, y);
}

void LowRankPair::add(const uint8_t* u, int64_t rows, int64_t begin, int64_t end, float* y,
                      int64_t ldy) const {
  if (has_bytes_) {
    const LowRankBytes b = {b_.data(), reinterpret_cast<const float*>(scales_.data()), groups()};
    const auto add_bytes =
        cpu_isa() == CpuIsa::kAvx512 ? avx512::add_low_rank_bytes : portable::add_low_rank_bytes;
    return add_bytes(b, {u, u_bytes(), rows}, begin, end, y, ldy);
  }
  for (int64_t column = begin; column < end;) {
    const int64_t next = std::min(end, (column / kTileColumns + 1) * kTileColumns);
    add_tile(u, rows, column, next, y + (column - begin), ldy);
    column = next;
  }
}

}  // namespace quarry::kernels
