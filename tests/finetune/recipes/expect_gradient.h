#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "finetune/optimizer.h"
#include "finetune/trained_adapter.h"

namespace quarry::test {

// Leaves the gradients to be looked at.
class NoOptimizer final : public Optimizer {
 public:
  void step(const std::vector<ParameterView>&, double) override {}
  int64_t num_steps() const override { return 0; }
  int64_t state_bytes(const std::vector<ParameterView>&) const override { return 0; }
  std::vector<StateTensor> save() const override { return {}; }
  void load(const std::vector<StateTensor>&) override {}
};

// Moves an adapter by `distance` along its gradient, whose elements change their sign as `signs`
// says, and compares how the loss moves with what the gradient promises.
inline void expect_gradient(const std::vector<ParameterView>& parameters,
                            const std::function<void()>& pack, const std::function<double()>& loss,
                            uint32_t signs, double distance = 0.005) {
  std::vector<std::vector<float>> start;
  std::vector<std::vector<float>> direction;
  double promised = 0.0;
  double squares = 0.0;
  for (const ParameterView& view : parameters) {
    start.emplace_back(view.value, view.value + view.size);
    direction.emplace_back();
    for (int64_t i = 0; i < view.size; ++i) {
      signs = signs * 1664525u + 1013904223u;
      const double g = view.gradient[i];
      const double d = signs % 3 == 0 ? -g : g;
      direction.back().push_back(static_cast<float>(d));
      promised += g * d;
      squares += g * g;
    }
  }
  ASSERT_GT(squares, 0.0);
  const auto loss_at = [&](double step) {
    size_t tensor = 0;
    for (const ParameterView& view : parameters) {
      for (int64_t i = 0; i < view.size; ++i) {
        const auto at = static_cast<size_t>(i);
        view.value[i] = static_cast<float>(start[tensor][at] + step * direction[tensor][at]);
      }
      ++tensor;
    }
    pack();
    return loss();
  };
  const double step = distance / std::sqrt(squares);
  const double moved = (loss_at(step) - loss_at(-step)) / (2.0 * step);
  loss_at(0.0);
  EXPECT_NEAR(moved, promised, 1e-3 * squares);
}

}  // namespace quarry::test
