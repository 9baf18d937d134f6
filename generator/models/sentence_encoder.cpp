#include "generator/models/sentence_encoder.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "generator/models/device.h"
#include "generator/nn/autograd.h"
#include "generator/nn/functional.h"
#include "generator/nn/lora.h"

namespace quarry {
namespace {

using nn::Tensor;

// 1 / |x|, or 0 for a vector of zeros.
float inverse_length(const float* x, int64_t width) {
  double squares = 0.0;
  for (int64_t i = 0; i < width; ++i) {
    squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  return squares > 0.0 ? static_cast<float>(1.0 / std::sqrt(squares)) : 0.0f;
}

class SentenceEncoder final : public TextEncoder {
 public:
  explicit SentenceEncoder(SentenceEncoderParts parts);

  int64_t dim() const override {
    return parts_.projection != nullptr ? parts_.projection->out_features() : width();
  }
  bool unit_length() const override { return parts_.unit_length; }
  int64_t max_tokens() const override { return parts_.max_tokens; }
  const Tokenizer& tokenizer() const override { return *parts_.tokenizer; }
  std::vector<float> encode(const std::vector<std::string>& texts) const override {
    return encode(nullptr, texts);
  }
  void use_cuda() override { move_to_cuda(*parts_.stack); }
  const std::vector<CausalLm::LinearSlot>& linear_slots() const override { return slots_; }
  std::vector<float> encode_with(const LoraAdapter& adapter,
                                 const std::vector<std::string>& texts) const override {
    return encode(&adapter, texts);
  }
  void accumulate_gradients(const LoraAdapter& adapter, const std::vector<std::string>& texts,
                            const float* vector_gradients, LoraGradients& gradients) const override;

 private:
  int64_t width() const { return parts_.stack->config().hidden_size; }
  std::vector<float> encode(const LoraAdapter* adapter,
                            const std::vector<std::string>& texts) const;
  // Token vectors of a batch -> projected vectors of its texts [texts, dim].
  Tensor project(const Tensor& tokens, const TextBatch& batch, const LoraAdapter* adapter,
                 LoraGradients* gradients, nn::Workspace& workspace) const;
  // Token vectors of one text [num_rows, E] -> its vector [E].
  void pool(const float* rows, int64_t num_rows, float* destination) const;
  // Given the gradient of that vector, the gradient of the token vectors.
  void pool_backward(const float* rows, int64_t num_rows, const float* gradient,
                     float* row_gradients) const;
  float scale_of(const float* vector) const {
    return parts_.unit_length ? inverse_length(vector, width()) : 1.0f;
  }

  SentenceEncoderParts parts_;
  std::vector<CausalLm::LinearSlot> slots_;
  mutable std::vector<nn::Workspace> workspaces_;  // of encode()'s threads, one each
};

SentenceEncoder::SentenceEncoder(SentenceEncoderParts parts)
    : parts_(std::move(parts)), slots_(parts_.stack->linear_slots()) {
  const int64_t limit = parts_.stack->config().max_tokens();
  parts_.max_tokens = parts_.max_tokens > 0 ? std::min(parts_.max_tokens, limit) : limit;
  if (parts_.projection == nullptr) return;
  QUARRY_DCHECK(parts_.pooling == Pooling::kCls && !parts_.unit_length);
  slots_.push_back({parts_.projection->path(0), parts_.projection->in_features(),
                    parts_.projection->out_features()});
}

Tensor SentenceEncoder::project(const Tensor& tokens, const TextBatch& batch,
                                const LoraAdapter* adapter, LoraGradients* gradients,
                                nn::Workspace& workspace) const {
  const std::vector<int64_t> first(batch.starts.begin(), batch.starts.end() - 1);
  const Tensor pooled = nn::select_rows(tokens, first, workspace);
  std::vector<nn::AdapterSpan> spans;
  if (adapter != nullptr) spans.push_back({0, pooled.size(0), adapter, gradients});
  return parts_.projection->forward(pooled, spans, workspace);
}

// The sum of the token vectors, or the first one: a mean has the direction of the sum.
void SentenceEncoder::pool(const float* rows, int64_t num_rows, float* destination) const {
  std::copy(rows, rows + width(), destination);
  if (parts_.pooling == Pooling::kMean) {
    for (int64_t row = 1; row < num_rows; ++row) {
      for (int64_t i = 0; i < width(); ++i) destination[i] += rows[row * width() + i];
    }
  }
  const float scale = scale_of(destination);
  for (int64_t i = 0; i < width(); ++i) destination[i] *= scale;
}

// For v = s / |s|:  ds = (g - v <v, g>) / |s|, which every row of a sum gets.
void SentenceEncoder::pool_backward(const float* rows, int64_t num_rows, const float* gradient,
                                    float* row_gradients) const {
  const int64_t width = this->width();
  std::vector<float> sum(rows, rows + width);
  if (parts_.pooling == Pooling::kMean) {
    for (int64_t row = 1; row < num_rows; ++row) {
      for (int64_t i = 0; i < width; ++i) sum[static_cast<size_t>(i)] += rows[row * width + i];
    }
  }
  const float scale = scale_of(sum.data());
  double along = 0.0;
  for (int64_t i = 0; i < width && parts_.unit_length; ++i) {
    along += double{sum[static_cast<size_t>(i)]} * double{scale} * double{gradient[i]};
  }
  const int64_t touched = parts_.pooling == Pooling::kMean ? num_rows : 1;
  std::fill(row_gradients + touched * width, row_gradients + num_rows * width, 0.0f);
  for (int64_t i = 0; i < width; ++i) {
    const double v = double{sum[static_cast<size_t>(i)]} * double{scale};
    const auto value = static_cast<float>((double{gradient[i]} - v * along) * double{scale});
    for (int64_t row = 0; row < touched; ++row) row_gradients[row * width + i] = value;
  }
}

std::vector<float> SentenceEncoder::encode(const LoraAdapter* adapter,
                                           const std::vector<std::string>& texts) const {
  std::vector<float> vectors(texts.size() * static_cast<size_t>(dim()));
  const auto work = [&](const TextBatch& batch, const size_t* members, nn::Workspace& workspace) {
    const Tensor tokens = parts_.stack->forward(batch, adapter, nullptr, workspace);
    Tensor projected;
    if (parts_.projection != nullptr) {
      projected = project(tokens, batch, adapter, nullptr, workspace);
    }
    for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
      float* vector = vectors.data() + members[i] * static_cast<size_t>(dim());
      if (parts_.projection != nullptr) {
        const float* row = nn::row_data(projected, static_cast<int64_t>(i));
        std::copy(row, row + dim(), vector);
      } else {
        pool(nn::row_data(tokens, batch.starts[i]), batch.starts[i + 1] - batch.starts[i], vector);
      }
    }
  };
  for_each_batch(encode_texts(*parts_.tokenizer, texts, max_tokens()),
                 parts_.stack->rows_per_batch(), workspaces_, work);
  return vectors;
}

void SentenceEncoder::accumulate_gradients(const LoraAdapter& adapter,
                                           const std::vector<std::string>& texts,
                                           const float* vector_gradients,
                                           LoraGradients& gradients) const {
  const std::vector<EncoderInput> inputs = encode_texts(*parts_.tokenizer, texts, max_tokens());
  if (workspaces_.empty()) workspaces_.resize(1);
  nn::Workspace& workspace = workspaces_.front();
  const at::AutoGradMode with_gradients(true);
  for (size_t first = 0; first < texts.size();) {
    TextBatch batch;
    size_t last = first;
    do {
      batch.add(inputs[last++]);
    } while (last < texts.size() &&
             batch.num_rows() + static_cast<int64_t>(inputs[last].ids.size()) <= kRowsPerBatch);
    const Tensor tokens = parts_.stack->forward(batch, &adapter, &gradients, workspace);
    const float* wanted = vector_gradients + first * static_cast<size_t>(dim());
    Tensor result = tokens;
    Tensor gradient;
    if (parts_.projection != nullptr) {
      result = project(tokens, batch, &adapter, &gradients, workspace);
      gradient = workspace.empty(result.size(0), dim());
      std::copy(wanted, wanted + gradient.numel(), gradient.data_ptr<float>());
    } else {
      gradient = workspace.empty(tokens.size(0), tokens.size(1));
      for (size_t i = first; i < last; ++i) {
        const int64_t start = batch.starts[i - first];
        pool_backward(nn::row_data(tokens, start), batch.starts[i - first + 1] - start,
                      wanted + (i - first) * static_cast<size_t>(dim()),
                      nn::mutable_row_data(gradient, start));
      }
    }
    if (result.requires_grad()) nn::run_backward(result, gradient);
    first = last;
  }
}

}  // namespace

void check_vocabulary(const Tokenizer& tokenizer, const BertConfig& config,
                      const std::string& description) {
  QUARRY_CHECK(tokenizer.vocab_size() <= config.vocab_size, ErrorCode::kCorruptData, description,
               ": the tokenizer knows ", tokenizer.vocab_size(), " tokens, the model ",
               config.vocab_size);
}

std::unique_ptr<TextEncoder> make_sentence_encoder(SentenceEncoderParts parts,
                                                   const std::string& description) {
  check_vocabulary(*parts.tokenizer, parts.stack->config(), description);
  return std::make_unique<SentenceEncoder>(std::move(parts));
}

}  // namespace quarry
