#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace quarry {

struct LossCurve {
  std::string title;
  std::vector<std::pair<int64_t, double>> train;  // (step, loss), ascending; drawn faint ...
  std::vector<std::pair<int64_t, double>> eval;   // ... (step, loss): dots joined by a line
  double smoothing = 0.9;  // ... and bold as an exponential moving average, its bias corrected
};

// A picture of the run: axes with ticks, a legend. Points that are not finite are left out; without
// a point only the axes are drawn.
std::string loss_curve_svg(const LossCurve& curve);

}  // namespace quarry
