#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "data/core/cpu_isa.h"

namespace quarry::kernels {

// The levels that this machine can run.
inline std::vector<CpuIsa> runnable_isas() {
  std::vector<CpuIsa> isas = {CpuIsa::kPortable};
  if (detect_cpu_isa() >= CpuIsa::kAvx2) isas.push_back(CpuIsa::kAvx2);
  if (detect_cpu_isa() >= CpuIsa::kAvx512) isas.push_back(CpuIsa::kAvx512);
  return isas;
}

// Forces a level while it lives.
class ScopedIsa {
 public:
  explicit ScopedIsa(CpuIsa isa) : previous_(cpu_isa()) { set_cpu_isa_for_testing(isa); }
  ~ScopedIsa() { set_cpu_isa_for_testing(previous_); }
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;

 private:
  CpuIsa previous_;
};

inline std::vector<float> random_floats(int64_t count, uint32_t seed, float spread = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

}  // namespace quarry::kernels
