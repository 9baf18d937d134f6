#include "generator/kernels/gemm.h"

#include <algorithm>

#include "data/core/parallel_for.h"
#include "generator/kernels/gemm_body.h"
#include "generator/kernels/isa_choice.h"
#include "generator/kernels/vec_portable.h"

namespace quarry::kernels::portable {

void gemm_serial(const GemmShape& shape, const float* a, const float* b, float* c) {
  gemm_body<VecPortable, VecPortable, 2, 2>(shape, a, b, c);
}

}  // namespace quarry::kernels::portable

namespace quarry::kernels {
namespace {

// Multiplications that are worth a thread of their own.
constexpr int64_t kGrainMultiplies = 256 * 1024;
// Columns that a thread takes at once: a multiple of every register tile.
constexpr int64_t kColumnBlock = 64;

}  // namespace

void gemm_serial(const GemmShape& shape, const float* a, const float* b, float* c) {
  if (shape.m <= 0 || shape.n <= 0) return;
  choose(portable::gemm_serial, avx2::gemm_serial, avx512::gemm_serial)(shape, a, b, c);
}

void gemm(const GemmShape& shape, const float* a, const float* b, float* c) {
  // Few rows and many columns, as in A^T's gradient: the columns are shared out.
  const bool by_columns = shape.n >= shape.m;
  const int64_t block = by_columns ? kColumnBlock : 1;
  const int64_t units = ((by_columns ? shape.n : shape.m) + block - 1) / block;
  const int64_t unit_work =
      std::max<int64_t>(1, shape.k * block * (by_columns ? shape.m : shape.n));
  parallel_for(units, (kGrainMultiplies + unit_work - 1) / unit_work,
               [&](int64_t begin, int64_t end) {
                 GemmShape part = shape;
                 if (by_columns) {
                   part.n = std::min(shape.n, end * block) - begin * block;
                   gemm_serial(part, a, b + begin * block, c + begin * block);
                 } else {
                   part.m = end - begin;
                   gemm_serial(part, a + begin * shape.a_row_stride, b, c + begin * shape.ldc);
                 }
               });
}

}  // namespace quarry::kernels
