// Rearranges a packed matrix for the GPU and copies it there. matmul_cuda.h has the layout.
#include <algorithm>
#include <cstring>
#include <vector>

#include "generator/kernels/device_buffer.h"
#include "generator/kernels/matmul_cuda.h"
#include "generator/kernels/packed_strips.h"
#include "generator/quant/half.h"

namespace quarry::kernels::cuda {
namespace {

// The four codes (k from `k` on; 4-bit: also those 16 further) of one row of the CPU's layout.
uint32_t codes_at(const MatrixView& w, int64_t strip, int64_t k, int64_t row) {
  if (k >= w.k) return 0;
  const int64_t vector = w.layout == Layout::kBytes ? k / 4 : k / 32 * 4 + k % 16 / 4;
  uint32_t word;
  std::memcpy(&word, w.codes + strip * w.strip_bytes + 64 * vector + 4 * row, 4);
  return word;
}

uint32_t swap_middle_bytes(uint32_t word) {
  return (word & 0xff0000ffu) | (word & 0x0000ff00u) << 8 | (word & 0x00ff0000u) >> 8;
}

std::vector<uint4> arrange_codes(const MatrixView& w, int64_t chunks) {
  const bool bytes = w.layout == Layout::kBytes;
  const int64_t vectors = bytes ? 2 : 1;
  std::vector<uint4> out;
  out.reserve(static_cast<size_t>(w.strips * chunks * vectors * kWarp));
  for (int64_t i = 0; i < w.strips * chunks * vectors; ++i) {
    const int64_t strip = i / (chunks * vectors);
    const int64_t first = i % (chunks * vectors) * (kChunk / vectors);
    for (int lane = 0; lane < kWarp; ++lane) {
      uint32_t words[4];
      for (int j = 0; j < 4; ++j) {
        const int64_t k = first + j / 2 * (bytes ? 16 : 32) + 4 * (lane % 4);
        words[j] = codes_at(w, strip, k, lane / 4 + 8 * (j % 2));
        if (w.layout == Layout::kNibbles) words[j] = swap_middle_bytes(words[j]);
      }
      out.push_back({words[0], words[1], words[2], words[3]});
    }
  }
  return out;
}

// Scales or offsets, `halves` in the CPU's order.
std::vector<uint32_t> arrange_halves(const MatrixView& w, const uint16_t* halves, int64_t chunks,
                                     int64_t slots) {
  std::vector<uint32_t> out;
  out.reserve(static_cast<size_t>(w.strips * chunks * slots * 8));
  for (int64_t i = 0; i < w.strips * chunks * slots; ++i) {
    const int64_t strip = i / (chunks * slots);
    const int64_t block = i % (chunks * slots) * (kChunk / slots) / w.block;
    for (int64_t row = 0; row < 8; ++row) {
      const bool inside = block < w.blocks;
      const uint32_t low = inside ? halves[scale_slot(w, strip, block, row)] : 0;
      const uint32_t high = inside ? halves[scale_slot(w, strip, block, row + 8)] : 0;
      out.push_back(low | high << 16);
    }
  }
  return out;
}

std::vector<float> arrange_row_scales(const MatrixView& w) {
  std::vector<float> out(static_cast<size_t>(w.strips * kStripRows), 1.0f);
  if (w.row_scales != nullptr) std::copy(w.row_scales, w.row_scales + out.size(), out.begin());
  return out;
}

uint32_t twice(float value) {
  const uint32_t half = quant::float_to_half(value);
  return half | half << 16;
}

int64_t slots_of(const MatrixView& w) {
  return w.layout == Layout::kCodebook ? 2 >> w.scale_shift : kChunk / w.block;
}

}  // namespace

struct DeviceMatrix::Storage {
  explicit Storage(const MatrixView& w)
      : chunks((w.k + kChunk - 1) / kChunk),
        codes(on_device(arrange_codes(w, chunks))),
        scales(on_device(arrange_halves(w, w.scales, chunks, slots_of(w)))),
        offsets(w.offsets == nullptr
                    ? DeviceBuffer()
                    : on_device(arrange_halves(w, w.offsets, chunks, slots_of(w)))),
        row_scales(on_device(arrange_row_scales(w))) {
    view.layout = w.layout;
    view.slots = static_cast<int>(slots_of(w));
    view.n = w.n;
    view.k = w.k;
    view.strips = static_cast<int>(w.strips);
    view.chunks = static_cast<int>(chunks);
    view.codes = codes.as<uint4>();
    view.scales = scales.as<uint32_t>();
    view.offsets = offsets.as<uint32_t>();
    view.row_scales = row_scales.as<float>();
    view.center = twice(1024.0f + (w.offsets == nullptr ? w.center : 0.0f));
    for (int i = 0; i < 16; ++i) view.codebook[i] = twice(static_cast<float>(w.codebook[i]));
  }
  int64_t chunks;
  DeviceBuffer codes;
  DeviceBuffer scales;
  DeviceBuffer offsets;
  DeviceBuffer row_scales;
  DeviceMatrixView view = {};
};

DeviceMatrix::DeviceMatrix(const PackedMatrix& matrix) {
  const auto has_codes = [](const MatrixView& w) {
    return w.layout == Layout::kNibbles || w.layout == Layout::kBytes ||
           w.layout == Layout::kCodebook;
  };
  const MatrixView& w = view_of(matrix);
  if (has_codes(w)) {
    storage_ = std::make_unique<Storage>(w);
    return;
  }
  const int64_t padded = (w.k + kChunk - 1) / kChunk * kChunk;
  const auto bytes = pack_rows(w.n, padded, Precision::kFast8, [&](int64_t row, float* values) {
    decode_row(matrix, row, values);
    std::fill(values + w.k, values + padded, 0.0f);
  });
  storage_ = std::make_unique<Storage>(view_of(*bytes));
  storage_->view.k = w.k;
}

DeviceMatrix::~DeviceMatrix() = default;
int64_t DeviceMatrix::n() const { return storage_->view.n; }
int64_t DeviceMatrix::k() const { return storage_->view.k; }
int64_t DeviceMatrix::bytes() const {
  return storage_->codes.bytes() + storage_->scales.bytes() + storage_->offsets.bytes() +
         storage_->row_scales.bytes();
}
const DeviceMatrixView& DeviceMatrix::view() const { return storage_->view; }

}  // namespace quarry::kernels::cuda
