#include "generator/nn/linear.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/nn/autograd.h"
#include "generator/nn/pack_weight.h"

namespace quarry::nn {
namespace {

// Rows of neighbouring projections of one type, in their final order, one after the other.
std::vector<uint8_t> gather_rows(const std::vector<Projection>& projections, size_t first,
                                 size_t last, int64_t row_bytes) {
  std::vector<uint8_t> rows;
  for (size_t p = first; p < last; ++p) {
    const Projection& projection = projections[p];
    const int64_t num_rows = projection.weight->shape[0];
    const size_t start = rows.size();
    rows.resize(start + static_cast<size_t>(num_rows * row_bytes));
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t stored = projection.row_order.empty() ? row : projection.row_order[row];
      std::memcpy(rows.data() + start + row * row_bytes,
                  projection.weight->data + stored * row_bytes, static_cast<size_t>(row_bytes));
    }
  }
  return rows;
}

void read_bias(const Projection& projection, float* destination) {
  const int64_t width = projection.weight->shape[0];
  std::vector<float> stored(static_cast<size_t>(width));
  dequantize(projection.bias->type, projection.bias->data, stored.data(), width);
  for (int64_t row = 0; row < width; ++row) {
    destination[row] = stored[projection.row_order.empty() ? row : projection.row_order[row]];
  }
}

}  // namespace

Linear::Linear(const std::vector<Projection>& projections, kernels::Precision precision,
               const WeightOptions& options) {
  QUARRY_DCHECK(!projections.empty());
  static std::atomic<size_t> next_number{0};
  number_ = next_number++;
  llm_int8_threshold_ = options.llm_int8_threshold;
  in_features_ = projections.front().weight->shape[1];
  for (const Projection& projection : projections) {
    QUARRY_DCHECK(projection.weight->shape[1] == in_features_);
    slices_.push_back({projection.path, projection.path + ".weight", projection.path + ".bias",
                       out_features_, projection.weight->shape[0], projection.bias != nullptr});
    out_features_ += projection.weight->shape[0];
  }
  for (size_t first = 0; first < projections.size();) {
    const WeightType type = projections[first].weight->type;
    if (options.load_in != LoadIn::kAsIs || needs_quant_state(type)) {
      const Projection& projection = projections[first];
      blocks_.push_back(
          {pack_weight(*projection.weight, projection.row_order, precision, options.load_in),
           slices_[first].offset, nullptr});
      const bool is_int8 = options.load_in == LoadIn::kInt8 || type == WeightType::kInt8Rows;
      if (is_int8 && options.llm_int8_threshold > 0.0f) {
        blocks_.back().int8 = std::make_unique<const Int8Rows>(
            int8_rows_of(*projection.weight, projection.row_order));
      }
      ++first;
      continue;
    }
    size_t last = first + 1;
    while (last < projections.size() && projections[last].weight->type == type) ++last;
    const int64_t begin = slices_[first].offset;
    const int64_t end = last < slices_.size() ? slices_[last].offset : out_features_;
    const std::vector<uint8_t> rows =
        gather_rows(projections, first, last, weight_bytes(type, in_features_));
    blocks_.push_back(
        {kernels::pack_matrix(type, rows.data(), end - begin, in_features_, precision), begin,
         nullptr});
    first = last;
  }
  if (options.spill != nullptr) {
    for (Block& block : blocks_) block.weight->move_to(*options.spill);
    is_spilled_ = true;
  }
  for (size_t p = 0; p < projections.size(); ++p) {
    if (projections[p].bias == nullptr) continue;
    bias_.resize(static_cast<size_t>(out_features_), 0.0f);
    read_bias(projections[p], bias_.data() + slices_[p].offset);
  }
}

void Linear::multiply(const Tensor& x, Tensor& y, kernels::ActivationBits bits,
                      const kernels::RoundedCopy& copy,
                      const std::vector<kernels::LowRankUpdate>& updates, const float* bias) const {
  if (next_ != nullptr && next_->is_spilled_) {
    for (const Block& block : next_->blocks_) block.weight->will_need();
  }
  std::vector<kernels::MatmulTarget> targets;
  Int8ProductOptions options;
  options.outlier_threshold = llm_int8_threshold_;
  for (const Block& block : blocks_) {
    float* out = y.data_ptr<float>() + block.offset;
    if (block.int8 == nullptr || at::GradMode::is_enabled()) {
      const float* its_bias = bias == nullptr ? nullptr : bias + block.offset;
      targets.push_back({block.weight.get(), out, out_features_, its_bias});
    } else {
      multiply_int8_rows(block.int8->state, block.int8->codes.data(), block.weight->n(),
                         in_features_, x.data_ptr<float>(), x.size(0), options, out, out_features_);
    }
  }
  kernels::matmul_group(targets, x.data_ptr<float>(), x.size(0), in_features_, bits, copy, updates);
}

Tensor Linear::forward(const Tensor& x, const std::vector<AdapterSpan>& spans,
                       Workspace& workspace) const {
  const int64_t num_rows = x.size(0);
  QUARRY_DCHECK(x.size(1) == in_features_);
  Tensor y = workspace.empty(num_rows, out_features_);
  const bool is_rounded = !spans.empty() && rounds(workspace);
  SavedActivation saved;
  kernels::RoundedCopy copy;
  const bool on_the_way = std::all_of(blocks_.begin(), blocks_.end(), [](const Block& block) {
    return block.int8 == nullptr;  // whose products read x elsewhere
  });
  if (is_rounded && !on_the_way) {
    saved = SavedActivation(x, workspace);
  } else if (is_rounded) {
    saved = SavedActivation::room_for(x, workspace);
    copy = {saved.mutable_bfloat16_rows(), in_features_};
  }
  const auto beside = updates_beside(spans, workspace);
  // Adapters may replace products and biases.
  const bool adds_at_once = spans.empty() && on_the_way && !bias_.empty();
  static const std::vector<kernels::LowRankUpdate> no_updates;
  multiply(x, y, workspace.activation_bits(), copy, beside ? *beside : no_updates,
           adds_at_once ? bias_.data() : nullptr);
  for (const AdapterSpan& span : spans) replace_products(x, span, y);
  if (!adds_at_once) add_biases(spans, y);
  std::vector<AdapterSpan> trained;
  if (at::GradMode::is_enabled()) {
    std::copy_if(spans.begin(), spans.end(), std::back_inserter(trained),
                 [&](const AdapterSpan& span) { return trains(span); });
  }
  // With nothing to train here the backward pass needs no x; adapters that are not trained still
  // shape dx.
  if (!is_rounded && !trained.empty()) saved = SavedActivation(x, workspace);
  const Operand input = {x, is_rounded ? &saved : nullptr};
  if (!beside) {
    for (const AdapterSpan& span : spans) add_adapter(input, span, y, workspace);
  }
  const bool needs_dx = needs_gradient(x);
  if (!needs_dx && trained.empty()) return y;
  return record(y, {x}, [=, &workspace](const Tensor& dy) {
    SavedActivation rounded_dy;
    Tensor dx;
    if (needs_dx) dx = input_gradient(dy, spans, is_rounded ? &rounded_dy : nullptr, workspace);
    if (is_rounded && rounded_dy.bfloat16_rows() == nullptr) {
      rounded_dy = SavedActivation(dy, workspace);
    }
    const bool restores = std::any_of(trained.begin(), trained.end(), [&](const AdapterSpan& span) {
      return !is_rounded || needs_floats(span);
    });
    const Operand x_again = {restores ? saved.restore(workspace) : Tensor(),
                             is_rounded ? &saved : nullptr};
    const Operand gradient = {dy, is_rounded ? &rounded_dy : nullptr};
    for (const AdapterSpan& span : spans) backward_adapter(x_again, gradient, span, dx, workspace);
    return std::vector<Tensor>{dx};
  });
}

Tensor Linear::forward(const Tensor& x, Workspace& workspace) const {
  return forward(x, {}, workspace);
}

std::vector<float> Linear::weight_values(size_t index) const {
  const Slice& slice = slices_[index];
  std::vector<float> values(static_cast<size_t>(slice.width * in_features_));
  for (int64_t row = 0; row < slice.width; ++row) {
    const int64_t at = slice.offset + row;
    auto block = blocks_.begin();
    while (block + 1 != blocks_.end() && (block + 1)->offset <= at) ++block;
    kernels::decode_row(*block->weight, at - block->offset, values.data() + row * in_features_);
  }
  return values;
}

std::vector<float> Linear::bias_values(size_t index) const {
  QUARRY_DCHECK(slices_[index].has_bias);
  const auto begin = bias_.begin() + slices_[index].offset;
  return {begin, begin + slices_[index].width};
}

}  // namespace quarry::nn
