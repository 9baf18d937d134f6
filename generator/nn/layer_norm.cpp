#include "generator/nn/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/nn/autograd.h"

namespace quarry::nn {
namespace {

constexpr int64_t kRowGrain = 32;
constexpr int64_t kColumnGrain = 64;

std::vector<float> values_of(const Tensor& vector) {
  const float* values = vector.data_ptr<float>();
  return {values, values + vector.numel()};
}

}  // namespace

LayerNorm::LayerNorm(const std::string& path, Tensor weight, Tensor bias, float epsilon)
    : weight_name_(path + ".weight"),
      bias_name_(path + ".bias"),
      weight_(std::move(weight)),
      bias_(std::move(bias)),
      epsilon_(epsilon) {}

std::vector<float> LayerNorm::weight_values() const { return values_of(weight_); }
std::vector<float> LayerNorm::bias_values() const { return values_of(bias_); }

std::vector<LayerNorm::Part> LayerNorm::split(const std::vector<AdapterSpan>& spans,
                                              int64_t num_rows) const {
  std::vector<Part> parts;
  int64_t done = 0;
  const auto add = [&](int64_t end) -> Part& {
    parts.push_back(
        {done, end, weight_.data_ptr<float>(), bias_.data_ptr<float>(), nullptr, nullptr});
    done = end;
    return parts.back();
  };
  for (const AdapterSpan& span : spans) {
    const FullTensor* weight = span.adapter->find_full(weight_name_);
    const FullTensor* bias = span.adapter->find_full(bias_name_);
    if (weight == nullptr && bias == nullptr) continue;
    if (done < span.begin) add(span.begin);
    Part& part = add(span.end);
    if (weight != nullptr) {
      part.weight = weight->values.data();
      if (span.trains()) part.weight_gradient = &span.gradients->full_at(weight_name_);
    }
    if (bias != nullptr) {
      part.bias = bias->values.data();
      if (span.trains()) part.bias_gradient = &span.gradients->full_at(bias_name_);
    }
  }
  if (done < num_rows) add(num_rows);
  return parts;
}

Tensor LayerNorm::forward(const Tensor& x, const std::vector<AdapterSpan>& spans,
                          Workspace& workspace) const {
  const int64_t width = x.size(1);
  QUARRY_DCHECK(weight_.numel() == width && bias_.numel() == width);
  const std::vector<Part> parts = split(spans, x.size(0));
  Tensor out = workspace.empty(x.size(0), width);
  for (const Part& part : parts) {
    parallel_for(part.end - part.begin, kRowGrain, [&](int64_t begin, int64_t end) {
      kernels::layer_norm(row_data(x, part.begin + begin), part.weight, part.bias, epsilon_,
                          end - begin, width, mutable_row_data(out, part.begin + begin));
    });
  }
  const bool needs_dx = needs_gradient(x);
  const bool trained =
      at::GradMode::is_enabled() && std::any_of(parts.begin(), parts.end(), [](const Part& part) {
        return part.weight_gradient != nullptr || part.bias_gradient != nullptr;
      });
  if (!needs_dx && !trained) return out;
  const SavedActivation saved(x, workspace);
  return record(out, {x}, [this, saved, parts, needs_dx, &workspace](const Tensor& dy) {
    const Tensor input = saved.restore(workspace);
    Tensor dx = needs_dx ? workspace.empty(input.size(0), input.size(1)) : Tensor();
    for (const Part& part : parts) {
      add_gradients(input, dy, part);
      if (!needs_dx) continue;
      kernels::layer_norm_backward(row_data(input, part.begin), part.weight, epsilon_,
                                   row_data(dy, part.begin), part.end - part.begin, input.size(1),
                                   mutable_row_data(dx, part.begin));
    }
    return std::vector<Tensor>{dx};
  });
}

// dbias += sum of dy over the rows,  dweight += sum of dy (x - mean) / sqrt(var + epsilon).
void LayerNorm::add_gradients(const Tensor& x, const Tensor& dy, const Part& part) const {
  if (part.weight_gradient == nullptr && part.bias_gradient == nullptr) return;
  const int64_t width = x.size(1);
  std::vector<double> mean;
  std::vector<double> inverse;
  for (int64_t row = part.begin; row < part.end; ++row) {
    const float* values = row_data(x, row);
    double total = 0.0;
    for (int64_t i = 0; i < width; ++i) total += double{values[i]};
    mean.push_back(total / static_cast<double>(width));
    double square = 0.0;
    for (int64_t i = 0; i < width; ++i) square += std::pow(double{values[i]} - mean.back(), 2);
    inverse.push_back(1.0 / std::sqrt(square / static_cast<double>(width) + double{epsilon_}));
  }
  parallel_for(width, kColumnGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double weight = 0.0;
      double bias = 0.0;
      for (int64_t row = part.begin; row < part.end; ++row) {
        const auto at = static_cast<size_t>(row - part.begin);
        const double gradient = row_data(dy, row)[i];
        bias += gradient;
        weight += gradient * (row_data(x, row)[i] - mean[at]) * inverse[at];
      }
      const auto column = static_cast<size_t>(i);
      if (part.weight_gradient != nullptr) {
        (*part.weight_gradient)[column] += static_cast<float>(weight);
      }
      if (part.bias_gradient != nullptr) {
        (*part.bias_gradient)[column] += static_cast<float>(bias);
      }
    }
  });
}

}  // namespace quarry::nn
