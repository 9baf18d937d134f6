#include "generator/models/encoder_head.h"

#include <ATen/core/grad_mode.h>

#include "data/core/error.h"
#include "generator/nn/activations.h"
#include "generator/nn/autograd.h"
#include "generator/nn/functional.h"

namespace quarry {

using nn::Tensor;

const PairTemplate& EncoderHead::pair_template() const {
  const PairTemplate* around = tokenizer->pair_template();
  QUARRY_CHECK(around != nullptr, ErrorCode::kInvalidArgument, description,
               ": the model's tokenizer has no template for two texts, wanted one in its "
               "tokenizer.json");
  return *around;
}

Tensor EncoderHead::logits(const TextBatch& batch, Rows rows, const LoraAdapter* adapter,
                           LoraGradients* gradients, nn::Workspace& workspace) const {
  Tensor x = stack->forward(batch, adapter, gradients, workspace);
  if (rows == Rows::kFirst) {
    x = nn::select_rows(x, {batch.starts.begin(), batch.starts.end() - 1}, workspace);
  }
  std::vector<nn::AdapterSpan> spans;
  if (adapter != nullptr) spans.push_back({0, x.size(0), adapter, gradients});
  if (dense != nullptr) x = nn::tanh(dense->forward(x, spans, workspace), workspace);
  return output->forward(x, spans, workspace);
}

void EncoderHead::run(const std::vector<EncoderInput>& inputs, Rows rows,
                      const LoraAdapter* adapter,
                      const std::function<void(size_t input, const float* logits)>& on_logits) {
  const auto work = [&](const TextBatch& batch, const size_t* members, nn::Workspace& workspace) {
    const Tensor of_batch = logits(batch, rows, adapter, nullptr, workspace);
    for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
      const int64_t row = rows == Rows::kFirst ? static_cast<int64_t>(i) : batch.starts[i];
      on_logits(members[i], nn::row_data(of_batch, row));
    }
  };
  for_each_batch(inputs, stack->rows_per_batch(), workspaces, work);
}

void EncoderHead::learn(const std::vector<EncoderInput>& inputs, const LoraAdapter& adapter,
                        const BatchLoss& loss, LoraGradients& gradients) {
  if (workspaces.empty()) workspaces.resize(1);
  nn::Workspace& workspace = workspaces.front();
  TextBatch batch;
  for (const EncoderInput& input : inputs) batch.add(input);
  const at::AutoGradMode with_gradients(true);
  const Tensor result = logits(batch, Rows::kFirst, &adapter, &gradients, workspace);
  Tensor gradient = workspace.empty(result.size(0), result.size(1));
  loss(nn::row_data(result, 0), nn::mutable_row_data(gradient, 0));
  if (result.requires_grad()) nn::run_backward(result, gradient);
}

}  // namespace quarry
