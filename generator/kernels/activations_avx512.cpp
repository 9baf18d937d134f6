#include <stdint.h>

#include "generator/kernels/activations_body.h"
#include "generator/kernels/activations_twins.h"
#include "generator/kernels/vec_avx512.h"

namespace quarry::kernels::avx512 {

QUARRY_DEFINE_ACTIVATIONS(VecAvx512)

}  // namespace quarry::kernels::avx512
