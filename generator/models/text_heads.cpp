#include "generator/models/text_heads.h"

#include <algorithm>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/models/encoder_head.h"
#include "generator/models/token_spans.h"

namespace quarry {

TextHead::TextHead(std::unique_ptr<EncoderHead> head) : head_(std::move(head)) {}
TextHead::~TextHead() = default;
TextHead::TextHead(TextHead&&) noexcept = default;
TextHead& TextHead::operator=(TextHead&&) noexcept = default;

const std::vector<std::string>& TextHead::labels() const { return head_->labels; }
int64_t TextHead::max_tokens() const { return head_->max_tokens; }
const Tokenizer& TextHead::tokenizer() const { return *head_->tokenizer; }

std::vector<EncoderInput> SequenceClassifier::encode(const std::vector<TextInput>& inputs,
                                                     int64_t max_tokens) const {
  const int64_t limit =
      max_tokens > 0 ? std::min(max_tokens, this->max_tokens()) : this->max_tokens();
  std::vector<EncoderInput> encoded(inputs.size());
  const auto is_pair = [](const TextInput& input) { return input.second.has_value(); };
  const bool any_pair = std::any_of(inputs.begin(), inputs.end(), is_pair);
  const PairTemplate* around = any_pair ? &head_->pair_template() : nullptr;
  parallel_for(static_cast<int64_t>(inputs.size()), 4, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const TextInput& input = inputs[i];
      encoded[i] = is_pair(input)
                       ? encode_pair(tokenizer(), *around, input.text, *input.second, limit)
                       : std::move(encode_texts(tokenizer(), {input.text}, limit).front());
    }
  });
  return encoded;
}

std::vector<float> SequenceClassifier::logits(const std::vector<EncoderInput>& inputs,
                                              const LoraAdapter* adapter) const {
  std::vector<float> logits(inputs.size() * labels().size());
  head_->run(inputs, EncoderHead::Rows::kFirst, adapter, [&](size_t input, const float* row) {
    std::copy(row, row + labels().size(), logits.data() + input * labels().size());
  });
  return logits;
}

std::vector<float> SequenceClassifier::logits(const std::vector<TextInput>& inputs) const {
  return logits(encode(inputs), nullptr);
}

const std::vector<CausalLm::LinearSlot>& SequenceClassifier::linear_slots() const {
  return head_->linear_slots;
}
const std::vector<CausalLm::TensorSlot>& SequenceClassifier::tensor_slots() const {
  return head_->tensor_slots;
}

std::vector<float> SequenceClassifier::tensor_values(const std::string& name) const {
  for (const nn::Linear* layer : {head_->dense.get(), head_->output.get()}) {
    if (name == layer->path(0) + ".weight") return layer->weight_values(0);
    if (name == layer->path(0) + ".bias") return layer->bias_values(0);
  }
  throw_error(ErrorCode::kInternal, "the head has no parameter '", name, "'");
}

void SequenceClassifier::accumulate_gradients(const LoraAdapter& adapter,
                                              const std::vector<EncoderInput>& inputs,
                                              const BatchLoss& loss,
                                              LoraGradients& gradients) const {
  if (!inputs.empty()) head_->learn(inputs, adapter, loss, gradients);
}

std::vector<TokenClassifier::Tokens> TokenClassifier::classify(
    const std::vector<std::string>& texts) const {
  std::vector<EncoderInput> encoded = encode_texts(tokenizer(), texts, max_tokens());
  std::vector<Tokens> results(texts.size());
  head_->run(encoded, EncoderHead::Rows::kAll, nullptr, [&](size_t input, const float* rows) {
    results[input].logits.assign(rows, rows + encoded[input].ids.size() * labels().size());
  });
  // The template's own tokens stand around those of the text.
  const std::vector<int32_t> frame = tokenizer().encode("", Tokenizer::SpecialTokens::kAdd);
  const size_t before = std::min<size_t>(1, frame.size());
  const size_t after = frame.size() - before;
  parallel_for(static_cast<int64_t>(texts.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      Tokens& result = results[i];
      result.ids = std::move(encoded[i].ids);
      result.spans.resize(result.ids.size());
      const std::vector<ByteSpan> spans = token_spans(tokenizer(), texts[i]);
      const size_t last = result.ids.size() - std::min(after, result.ids.size());
      for (size_t t = before; t < last && t - before < spans.size(); ++t) {
        result.spans[t] = spans[t - before];
      }
    }
  });
  return results;
}

}  // namespace quarry
