#include <stdint.h>

#include "generator/kernels/elementwise_backward_body.h"
#include "generator/kernels/elementwise_backward_twins.h"
#include "generator/kernels/vec_avx512.h"

namespace quarry::kernels::avx512 {

QUARRY_DEFINE_ELEMENTWISE_BACKWARD(VecAvx512)

}  // namespace quarry::kernels::avx512
