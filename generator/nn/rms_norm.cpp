#include "generator/nn/rms_norm.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/elementwise.h"
#include "generator/kernels/elementwise_backward.h"
#include "generator/nn/autograd.h"

namespace quarry::nn {
namespace {

constexpr int64_t kRowGrain = 32;
constexpr int64_t kColumnGrain = 64;

}  // namespace

RmsNorm::RmsNorm(const std::string& path, const Tensor& weight, float epsilon, float offset)
    : weight_name_(path + ".weight"),
      stored_(weight),
      weight_(offset == 0.0f ? weight : weight.add(offset)),
      epsilon_(epsilon),
      offset_(offset) {}

std::vector<float> RmsNorm::weight_values() const {
  const float* values = stored_.data_ptr<float>();
  return {values, values + stored_.numel()};
}

std::vector<float> RmsNorm::factors() const {
  const float* values = weight_.data_ptr<float>();
  return {values, values + weight_.numel()};
}

Tensor RmsNorm::own_weight(const FullTensor& own) const {
  const auto width = static_cast<int64_t>(own.values.size());
  // Lives as long as the adapter.
  const Tensor values = at::from_blob(const_cast<float*>(own.values.data()), {width}, at::kFloat);
  return offset_ == 0.0f ? values : values.add(offset_);
}

std::vector<RmsNorm::Part> RmsNorm::split(const std::vector<AdapterSpan>& spans,
                                          int64_t num_rows) const {
  std::vector<Part> parts;
  int64_t done = 0;
  const auto add_base = [&](int64_t end) {
    if (done < end) parts.push_back({done, end, weight_, nullptr});
  };
  for (const AdapterSpan& span : spans) {
    const FullTensor* own = span.adapter->find_full(weight_name_);
    if (own == nullptr) continue;
    add_base(span.begin);
    parts.push_back({span.begin, span.end, own_weight(*own),
                     span.trains() ? &span.gradients->full_at(weight_name_) : nullptr});
    done = span.end;
  }
  add_base(num_rows);
  return parts;
}

Tensor RmsNorm::forward(const Tensor& x, const std::vector<AdapterSpan>& spans,
                        Workspace& workspace) const {
  const int64_t width = x.size(1);
  QUARRY_DCHECK(weight_.numel() == width);
  const std::vector<Part> parts = split(spans, x.size(0));
  Tensor out = workspace.empty(x.size(0), width);
  for (const Part& part : parts) {
    parallel_for(part.end - part.begin, kRowGrain, [&](int64_t begin, int64_t end) {
      kernels::rms_norm(row_data(x, part.begin + begin), part.weight.data_ptr<float>(), epsilon_,
                        end - begin, width, mutable_row_data(out, part.begin + begin));
    });
  }
  const bool needs_dx = needs_gradient(x);
  const bool trained = at::GradMode::is_enabled() &&
                       std::any_of(parts.begin(), parts.end(),
                                   [](const Part& part) { return part.gradient != nullptr; });
  if (!needs_dx && !trained) return out;
  const SavedActivation saved(x, workspace);
  return record(out, {x}, [this, saved, parts, needs_dx, &workspace](const Tensor& dy) {
    Tensor dx = needs_dx ? workspace.empty(dy.size(0), dy.size(1)) : Tensor();
    for (const Part& part : parts) {
      if (part.gradient != nullptr) add_weight_gradient(saved.restore(workspace), dy, part);
      if (!needs_dx) continue;
      parallel_for(part.end - part.begin, kRowGrain, [&](int64_t begin, int64_t end) {
        std::vector<float> buffer(static_cast<size_t>(dy.size(1)));
        for (int64_t row = part.begin + begin; row < part.begin + end; ++row) {
          kernels::rms_norm_backward(saved.row(row, buffer.data()), part.weight.data_ptr<float>(),
                                     epsilon_, row_data(dy, row), 1, dy.size(1),
                                     mutable_row_data(dx, row));
        }
      });
    }
    return std::vector<Tensor>{dx};
  });
}

// dweight[i] += sum over rows of dy[i] x[i] / sqrt(mean(x^2) + epsilon).
void RmsNorm::add_weight_gradient(const Tensor& x, const Tensor& dy, const Part& part) const {
  const int64_t width = x.size(1);
  std::vector<double> inverse;
  for (int64_t row = part.begin; row < part.end; ++row) {
    double square = 0.0;
    for (int64_t i = 0; i < width; ++i) square += double{row_data(x, row)[i]} * row_data(x, row)[i];
    inverse.push_back(1.0 / std::sqrt(square / static_cast<double>(width) + double{epsilon_}));
  }
  parallel_for(width, kColumnGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double sum = 0.0;
      for (int64_t row = part.begin; row < part.end; ++row) {
        sum += double{row_data(dy, row)[i]} * row_data(x, row)[i] *
               inverse[static_cast<size_t>(row - part.begin)];
      }
      (*part.gradient)[static_cast<size_t>(i)] += static_cast<float>(sum);
    }
  });
}

}  // namespace quarry::nn
