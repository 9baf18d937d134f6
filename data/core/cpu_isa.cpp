#include "data/core/cpu_isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>

namespace quarry {
namespace {

CpuIsa initial_isa() {
  const CpuIsa best = detect_cpu_isa();
  const char* wanted = std::getenv("QUARRY_CPU_ISA");
  if (wanted == nullptr) return best;
  for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (std::string(wanted) == cpu_isa_name(isa)) return std::min(isa, best);
  }
  return best;
}

std::atomic<CpuIsa>& current_isa() {
  static std::atomic<CpuIsa> isa{initial_isa()};
  return isa;
}

}  // namespace

CpuIsa detect_cpu_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
                      __builtin_cpu_supports("avx512bf16");
  if (avx512) return CpuIsa::kAvx512;
  if (avx2) return CpuIsa::kAvx2;
#endif
  return CpuIsa::kPortable;
}

CpuIsa cpu_isa() { return current_isa().load(std::memory_order_relaxed); }

void set_cpu_isa_for_testing(CpuIsa isa) { current_isa() = std::min(isa, detect_cpu_isa()); }

const char* cpu_isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return "portable";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
  }
  return "portable";
}

}  // namespace quarry
