#include <stdint.h>

#include "generator/kernels/elementwise_backward_body.h"
#include "generator/kernels/elementwise_backward_twins.h"
#include "generator/kernels/vec_avx2.h"

namespace quarry::kernels::avx2 {

QUARRY_DEFINE_ELEMENTWISE_BACKWARD(VecAvx2)

}  // namespace quarry::kernels::avx2
