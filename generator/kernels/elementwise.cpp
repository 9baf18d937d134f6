#include "generator/kernels/elementwise.h"

#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise_body.h"
#include "generator/kernels/elementwise_twins.h"
#include "generator/kernels/isa_choice.h"
#include "generator/kernels/vec_portable.h"
#include "generator/quant/half.h"

namespace quarry::kernels::portable {

void rms_norm(const float* x, const float* weight, float epsilon, int64_t width, float* out) {
  rms_norm_body<VecPortable>(x, weight, epsilon, width, out);
}
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon,
                int64_t width, float* out) {
  layer_norm_body<VecPortable>(x, weight, bias, epsilon, width, out);
}
void silu_mul(const float* gate, const float* up, int64_t count, float* out) {
  silu_mul_body<VecPortable>(gate, up, count, out);
}
void gelu(const float* x, int64_t count, float* out) { gelu_body<VecPortable>(x, count, out); }
void add(const float* a, const float* b, int64_t count, float* out) {
  add_body<VecPortable>(a, b, count, out);
}
void rope_half(float* x, int64_t half, const float* cosine, const float* sine) {
  rope_half_body<VecPortable>(x, half, cosine, sine);
}
void half_to_float(const uint16_t* x, int64_t count, float* out) {
  half_to_float_body<VecPortable>(x, count, out);
}
int64_t argmax(const float* x, int64_t count) { return argmax_body<VecPortable>(x, count); }
bool has_nan(const float* x, int64_t count) { return has_nan_body(x, count); }
void float_to_half(const float* x, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = quant::float_to_half(x[i]);
}

}  // namespace quarry::kernels::portable

namespace quarry::kernels {
namespace {

// Elements that a thread should have before a second one is worth waking.
constexpr int64_t kGrain = 16384;

// Rows of `width` elements in pieces of at least kGrain elements.
template <typename Body>
void for_rows(int64_t rows, int64_t width, const Body& body) {
  parallel_for(rows, (kGrain + width - 1) / (width < 1 ? 1 : width), body);
}

}  // namespace

void rms_norm(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width,
              float* out) {
  const auto kernel = choose(portable::rms_norm, avx2::rms_norm, avx512::rms_norm);
  for_rows(rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      kernel(x + row * width, weight, epsilon, width, out + row * width);
    }
  });
}

void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int64_t rows,
                int64_t width, float* out) {
  const auto kernel = choose(portable::layer_norm, avx2::layer_norm, avx512::layer_norm);
  for_rows(rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      kernel(x + row * width, weight, bias, epsilon, width, out + row * width);
    }
  });
}

void silu_mul(const float* gate, const float* up, int64_t count, float* out) {
  const auto kernel = choose(portable::silu_mul, avx2::silu_mul, avx512::silu_mul);
  parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
    kernel(gate + begin, up + begin, end - begin, out + begin);
  });
}

void gelu(const float* x, int64_t count, float* out) {
  const auto kernel = choose(portable::gelu, avx2::gelu, avx512::gelu);
  parallel_for(count, kGrain,
               [&](int64_t begin, int64_t end) { kernel(x + begin, end - begin, out + begin); });
}

void add(const float* a, const float* b, int64_t count, float* out) {
  const auto kernel = choose(portable::add, avx2::add, avx512::add);
  parallel_for(count, 4 * kGrain, [&](int64_t begin, int64_t end) {
    kernel(a + begin, b + begin, end - begin, out + begin);
  });
}

void add_bias(float* x, const float* bias, int64_t rows, int64_t width) {
  const auto kernel = choose(portable::add, avx2::add, avx512::add);
  for_rows(rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      kernel(x + row * width, bias, width, x + row * width);
    }
  });
}

namespace {

void rope_interleaved(float* x, int64_t half, const float* cosine, const float* sine) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    x[2 * i] = a * cosine[i] - b * sine[i];
    x[2 * i + 1] = a * sine[i] + b * cosine[i];
  }
}

}  // namespace

void rope(float* x, const int32_t* positions, int64_t num_tokens, int64_t num_heads,
          int64_t head_dim, int64_t ldx, const float* cos_table, const float* sin_table,
          RopePairing pairing) {
  const auto kernel = pairing == RopePairing::kInterleaved
                          ? &rope_interleaved
                          : choose(portable::rope_half, avx2::rope_half, avx512::rope_half);
  const int64_t half = head_dim / 2;
  for_rows(num_tokens, num_heads * head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const float* cosine = cos_table + positions[token] * half;
      const float* sine = sin_table + positions[token] * half;
      for (int64_t head = 0; head < num_heads; ++head) {
        kernel(x + token * ldx + head * head_dim, half, cosine, sine);
      }
    }
  });
}

void float_to_half(const float* x, int64_t count, uint16_t* out) {
  choose(portable::float_to_half, avx2::float_to_half, avx512::float_to_half)(x, count, out);
}

void half_to_float(const uint16_t* x, int64_t count, float* out) {
  choose(portable::half_to_float, avx2::half_to_float, avx512::half_to_float)(x, count, out);
}

int64_t argmax(const float* x, int64_t count) {
  return choose(portable::argmax, avx2::argmax, avx512::argmax)(x, count);
}

bool has_nan(const float* x, int64_t count) {
  return choose(portable::has_nan, avx2::has_nan, avx512::has_nan)(x, count);
}

}  // namespace quarry::kernels
