#include "generator/nn/lora_init.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "generator/decode/random.h"
#include "generator/nn/lora_training.h"
#include "generator/quant/encode_dense.h"
#include "generator/weights/printable.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {
namespace {

using at::Tensor;

// U S V^T of a matrix, cut to the largest singular values.
struct Decomposition {
  Tensor u;   // [out, r]
  Tensor s;   // [r], descending
  Tensor vh;  // [r, in]
};

Decomposition decompose(const Tensor& matrix, int64_t rank) {
  const auto [u, s, vh] = at::linalg_svd(matrix, false);
  return {u.narrow(1, 0, rank), s.narrow(0, 0, rank), vh.narrow(0, 0, rank)};
}

Tensor random_normal(int64_t rows, int64_t columns, uint64_t seed) {
  SplitMix64 random(seed);
  Tensor values = at::empty({rows, columns}, at::kFloat);
  float* out = values.data_ptr<float>();
  for (int64_t i = 0; i < values.numel(); ++i) {  // Box and Muller 1958
    const double radius = std::sqrt(-2.0 * std::log(1.0 - random.next_unit()));
    out[i] = static_cast<float>(radius * std::cos(2.0 * M_PI * random.next_unit()));
  }
  return values;
}

// The range of the matrix is found by power iteration from `rank` random directions, as
// torch.svd_lowrank does.
Decomposition decompose_fast(const Tensor& matrix, int64_t rank, int64_t iterations,
                             uint64_t seed) {
  const auto orthonormal = [](const Tensor& columns) {
    return std::get<0>(at::linalg_qr(columns, "reduced"));
  };
  Tensor range = orthonormal(at::matmul(matrix, random_normal(matrix.size(1), rank, seed)));
  for (int64_t i = 0; i < iterations; ++i) {
    range = orthonormal(at::matmul(matrix.t(), range));
    range = orthonormal(at::matmul(matrix, range));
  }
  const auto [u, s, vh] = at::linalg_svd(at::matmul(range.t(), matrix), false);
  return {at::matmul(range, u), s, vh};
}

std::vector<float> to_vector(const Tensor& values) {
  const Tensor rows = values.contiguous();
  const float* data = rows.data_ptr<float>();
  return {data, data + rows.numel()};
}

// Makes scale B A = U S V^T, with the singular values shared out between both.
void set_pair(const Decomposition& parts, LoraWeights& pair) {
  const Tensor root = parts.s.div(pair.scale).sqrt();
  pair.a = to_vector(parts.vh.mul(root.unsqueeze(1)));
  pair.b = to_vector(parts.u.mul(root.unsqueeze(0)));
  pair.pack();
}

Tensor as_matrix(std::vector<float>& values, const CausalLm::LinearSlot& slot) {
  return at::from_blob(values.data(), {slot.out_features, slot.in_features}, at::kFloat);
}

void start_pissa(const CausalLm& model, const CausalLm::LinearSlot& slot,
                 const LoraInitOptions& options, LoraWeights& pair) {
  std::vector<float> values = model.tensor_values(slot.path + ".weight");
  const Tensor weight = as_matrix(values, slot);
  const std::optional<int64_t> iterations = pissa_iterations(options.init_lora_weights);
  set_pair(iterations ? decompose_fast(weight, pair.rank, *iterations, options.seed)
                      : decompose(weight, pair.rank),
           pair);
  LoraWeights start = pair;
  start.scale = -pair.scale;
  start.pack();
  pair.start = std::make_shared<const LoraWeights>(std::move(start));
}

// Returns the largest residual.
float start_loftq(const SafetensorsFile& dense, const CausalLm& model,
                  const CausalLm::LinearSlot& slot, LoraWeights& pair) {
  const TensorView& view = dense.get(slot.path + ".weight");
  const std::vector<int64_t> wanted = {slot.out_features, slot.in_features};
  QUARRY_CHECK(view.shape == wanted && is_dense_float(view.type), ErrorCode::kInvalidArgument,
               dense.description(), ": tensor ", printable(view.name), " is not dense or not [",
               slot.out_features, ", ", slot.in_features,
               "] as this model's: LoftQ wants the base before it was quantized");
  std::vector<float> residual(static_cast<size_t>(view.num_elements()));
  dequantize(view.type, view.data, residual.data(), view.num_elements());
  const std::vector<float> quantized = model.tensor_values(slot.path + ".weight");
  float largest = 0.0f;
  for (size_t i = 0; i < residual.size(); ++i) {
    QUARRY_CHECK(std::isfinite(residual[i]), ErrorCode::kCorruptData, dense.description(),
                 ": tensor ", printable(view.name), " holds a value that is not finite");
    residual[i] -= quantized[i];
    largest = std::max(largest, std::fabs(residual[i]));
  }
  set_pair(decompose(as_matrix(residual, slot), pair.rank), pair);
  return largest;
}

void start_from_decomposition(const CausalLm& model, const LoraInitOptions& options,
                              LoraAdapter& adapter) {
  const at::NoGradGuard no_grad;
  std::unique_ptr<SafetensorsFile> dense;
  if (options.init_lora_weights == "loftq") dense = SafetensorsFile::open(options.loftq_weights);
  float largest = 0.0f;
  for (const CausalLm::LinearSlot& slot : model.linear_slots()) {
    const auto it = adapter.mutable_weights().find(slot.path);
    if (it == adapter.mutable_weights().end()) continue;
    LoraWeights& pair = it->second;
    const int64_t smaller = std::min(slot.in_features, slot.out_features);
    QUARRY_CHECK(pair.rank <= smaller, ErrorCode::kInvalidArgument, "r of '", slot.path, "' is ",
                 pair.rank, ", and init_lora_weights ", options.init_lora_weights, " has only the ",
                 smaller, " singular directions of its weight");
    if (dense == nullptr) {
      start_pissa(model, slot, options, pair);
    } else {
      largest = std::max(largest, start_loftq(*dense, model, slot, pair));
    }
  }
  QUARRY_CHECK(dense == nullptr || largest > 0.0f, ErrorCode::kInvalidArgument,
               dense == nullptr ? "" : dense->description(),
               ": holds just the weights that the base computes with; LoftQ makes up for the error "
               "of a quantized base");
}

void copy_replaced(const LoraConfig& config, const CausalLm& model, LoraAdapter& adapter) {
  for (const CausalLm::TensorSlot& slot : model.tensor_slots()) {
    if (!config.replaces(slot.name)) continue;
    FullTensor& full = adapter.mutable_full()[slot.name];
    full.shape = slot.shape;
    full.use = slot.use;
    full.values = model.tensor_values(slot.name);
    full.pack();
  }
}

void check_modules_to_save(const LoraConfig& config, const CausalLm& model) {
  const auto& slots = model.tensor_slots();
  for (const std::string& name : config.modules_to_save()) {
    QUARRY_CHECK(std::any_of(slots.begin(), slots.end(),
                             [&](const auto& slot) { return saves_module(name, slot.name); }),
                 ErrorCode::kInvalidArgument, "modules_to_save holds \"", name,
                 "\", which is no module of this model; it has for instance 'lm_head', "
                 "'embed_tokens' and 'norm'");
  }
}

}  // namespace

std::unique_ptr<LoraAdapter> create_adapter(const LoraConfig& config, const CausalLm& model,
                                            const LoraInitOptions& options) {
  check_modules_to_save(config, model);
  const bool decomposes =
      options.init_lora_weights == "loftq" || is_pissa(options.init_lora_weights);
  std::unique_ptr<LoraAdapter> adapter = create_adapter(
      config, model.linear_slots(), decomposes ? "true" : options.init_lora_weights, options.seed);
  if (decomposes) start_from_decomposition(model, options, *adapter);
  copy_replaced(config, model, *adapter);
  return adapter;
}

}  // namespace quarry
