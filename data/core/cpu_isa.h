#pragma once

namespace quarry {

// The instruction-set level whose kernels run. Ordered: a level includes the ones before it.
enum class CpuIsa {
  kPortable,  // plain C++ for the baseline target
  kAvx2,      // AVX2, FMA, F16C
  kAvx512,    // AVX-512 F, BW, DQ, VL, VNNI and BF16
};

// Best level of this CPU, lowered by the environment variable QUARRY_CPU_ISA=portable|avx2|avx512
// (read once). A level the CPU lacks is never chosen. Thread-safe.
CpuIsa cpu_isa();

// Best level of this CPU, whatever the environment says.
CpuIsa detect_cpu_isa();

// For tests: forces a level (clamped to detect_cpu_isa()) for the whole process.
void set_cpu_isa_for_testing(CpuIsa isa);

const char* cpu_isa_name(CpuIsa isa);

}  // namespace quarry
