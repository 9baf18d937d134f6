#include <stdint.h>

#include "generator/kernels/activations_body.h"
#include "generator/kernels/activations_twins.h"
#include "generator/kernels/vec_avx2.h"

namespace quarry::kernels::avx2 {

QUARRY_DEFINE_ACTIVATIONS(VecAvx2)

}  // namespace quarry::kernels::avx2
