#include "generator/models/encoder_head.h"

#include <cmath>

#include "data/core/error.h"
#include "generator/nn/functional.h"

namespace quarry {
namespace {

using nn::Tensor;

void tanh_in_place(Tensor& x) {
  float* values = x.data_ptr<float>();
  for (int64_t i = 0; i < x.numel(); ++i) values[i] = std::tanh(values[i]);
}

}  // namespace

const PairTemplate& EncoderHead::pair_template() const {
  const PairTemplate* around = tokenizer->pair_template();
  QUARRY_CHECK(around != nullptr, ErrorCode::kInvalidArgument, description,
               ": the model's tokenizer has no template for two texts, wanted one in its "
               "tokenizer.json");
  return *around;
}

void EncoderHead::run(const std::vector<EncoderInput>& inputs, Rows rows,
                      const std::function<void(size_t input, const float* logits)>& on_logits) {
  const auto work = [&](const TextBatch& batch, const size_t* members, nn::Workspace& workspace) {
    Tensor x = stack->forward(batch, nullptr, nullptr, workspace);
    if (rows == Rows::kFirst) {
      x = nn::select_rows(x, {batch.starts.begin(), batch.starts.end() - 1}, workspace);
    }
    if (dense != nullptr) {
      x = dense->forward(x, workspace);
      tanh_in_place(x);
    }
    const Tensor logits = output->forward(x, workspace);
    for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
      const int64_t row = rows == Rows::kFirst ? static_cast<int64_t>(i) : batch.starts[i];
      on_logits(members[i], nn::row_data(logits, row));
    }
  };
  for_each_batch(inputs, workspaces, work);
}

}  // namespace quarry
