#include "generator/kernels/activations.h"

#include "generator/kernels/activations_body.h"
#include "generator/kernels/activations_twins.h"
#include "generator/kernels/isa_choice.h"
#include "generator/kernels/vec_portable.h"

namespace quarry::kernels::portable {

QUARRY_DEFINE_ACTIVATIONS(VecPortable)

}  // namespace quarry::kernels::portable

namespace quarry::kernels {

void gelu_tanh(const float* x, int64_t count, float* out) {
  choose(portable::gelu_tanh, avx2::gelu_tanh, avx512::gelu_tanh)(x, count, out);
}

void gelu_tanh_mul(const float* gate, const float* up, int64_t count, float* out) {
  choose(portable::gelu_tanh_mul, avx2::gelu_tanh_mul, avx512::gelu_tanh_mul)(gate, up, count, out);
}

void relu(const float* x, int64_t count, float* out) {
  choose(portable::relu, avx2::relu, avx512::relu)(x, count, out);
}

void gelu_backward(const float* x, const float* gradient, int64_t count, float* out) {
  choose(portable::gelu_backward, avx2::gelu_backward, avx512::gelu_backward)(x, gradient, count,
                                                                              out);
}

void gelu_tanh_backward(const float* x, const float* gradient, int64_t count, float* out) {
  choose(portable::gelu_tanh_backward, avx2::gelu_tanh_backward, avx512::gelu_tanh_backward)(
      x, gradient, count, out);
}

void relu_backward(const float* x, const float* gradient, int64_t count, float* out) {
  choose(portable::relu_backward, avx2::relu_backward, avx512::relu_backward)(x, gradient, count,
                                                                              out);
}

void gelu_tanh_mul_backward(const float* gate, const float* up, const float* gradient,
                            int64_t count, float* gate_out, float* up_out) {
  choose(portable::gelu_tanh_mul_backward, avx2::gelu_tanh_mul_backward,
         avx512::gelu_tanh_mul_backward)(gate, up, gradient, count, gate_out, up_out);
}

}  // namespace quarry::kernels
