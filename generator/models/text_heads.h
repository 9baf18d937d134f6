#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/text/tokenizer.h"
#include "generator/kernels/matmul.h"
#include "generator/models/causal_lm.h"
#include "generator/models/encoder_input.h"

namespace quarry {

// Encoders of the BERT family with a trained head, from Hugging Face folders: Bert, Roberta and
// XLMRoberta ...ForSequenceClassification, ...ForTokenClassification and ...ForQuestionAnswering.
// All are immutable after loading; their calls are for one thread at a time. Inputs are batched by
// length inside and never padded: what one gives does not depend on the others, to the bit.

struct EncoderHead;  // generator/models/encoder_head.h

// What the heads have in common.
class TextHead {
 public:
  explicit TextHead(std::unique_ptr<EncoderHead> head);
  ~TextHead();
  TextHead(TextHead&&) noexcept;
  TextHead& operator=(TextHead&&) noexcept;

  // Names of the columns of logits: id2label of config.json, else "LABEL_0" and so on.
  const std::vector<std::string>& labels() const;
  // Longest input in tokens, template tokens included.
  int64_t max_tokens() const;
  const Tokenizer& tokenizer() const;

 protected:
  std::unique_ptr<EncoderHead> head_;
};

// A text, or two that the model reads as one.
struct TextInput {
  std::string text;
  std::optional<std::string> second;
};

class SequenceClassifier : public TextHead {
 public:
  using TextHead::TextHead;
  // [inputs.size(), labels().size()] row-major, before any softmax or sigmoid. What is too long is
  // cut: of two texts the longer one, until they are of one length. Throws kInvalidArgument for a
  // pair where the tokenizer has no template for one.
  std::vector<float> logits(const std::vector<TextInput>& inputs) const;

  // What the model reads of each input: at most max_tokens() and, where it is not 0, `max_tokens`.
  // Throws as logits(). REQUIRES: more than the template has.
  std::vector<EncoderInput> encode(const std::vector<TextInput>& inputs,
                                   int64_t max_tokens = 0) const;
  // The logits of such inputs, with an adapter made for the slots below or, where it is null,
  // without one.
  std::vector<float> logits(const std::vector<EncoderInput>& inputs,
                            const LoraAdapter* adapter) const;

  // As those of CausalLm, by the paths that Hugging Face's class has:
  // "bert.encoder.layer.0.attention.self.query". Parameters are those of the head and of the
  // pooler.
  const std::vector<CausalLm::LinearSlot>& linear_slots() const;
  const std::vector<CausalLm::TensorSlot>& tensor_slots() const;
  std::vector<float> tensor_values(const std::string& name) const;

  // loss(logits, gradients) sets the gradients [inputs.size(), labels] of a loss of all inputs with
  // respect to their logits, of the same shape. Adds the gradient of that loss with respect to what
  // the adapter has to `gradients`, which were made for it. One pass: memory grows with the tokens
  // of all inputs.
  using BatchLoss = std::function<void(const float* logits, float* gradients)>;
  void accumulate_gradients(const LoraAdapter& adapter, const std::vector<EncoderInput>& inputs,
                            const BatchLoss& loss, LoraGradients& gradients) const;
};

// Bytes [start, end) of a text.
struct ByteSpan {
  int64_t start = 0;
  int64_t end = 0;
};

class TokenClassifier : public TextHead {
 public:
  using TextHead::TextHead;
  struct Tokens {
    std::vector<int32_t> ids;     // the template's tokens included
    std::vector<float> logits;    // [ids.size(), labels().size()]
    std::vector<ByteSpan> spans;  // of each id in the text; empty (0, 0) for the template's
  };
  // One for each text. A text that is too long loses its end.
  std::vector<Tokens> classify(const std::vector<std::string>& texts) const;
};

struct QuestionContext {
  std::string question;
  std::string context;
};

// The best answer that a context holds.
struct AnswerSpan {
  ByteSpan span;     // in the context
  std::string text;  // context[span]
  double score = 0;  // logit of its start plus logit of its end
  // The same of the first token, by which models that learned to abstain say "no answer": what is
  // left out counts as said when this is the larger one. Of several windows the least.
  double no_answer_score = 0;
};

struct AnswerSpanOptions {
  int64_t max_answer_tokens = 30;
  // A context too long for the model is read in windows that share so many tokens; less where the
  // question leaves less room.
  int64_t overlap_tokens = 128;
};

class QuestionAnswerer : public TextHead {
 public:
  using TextHead::TextHead;
  struct Tokens {
    std::vector<int32_t> ids;   // question and context in the pair template
    int64_t context_begin = 0;  // tokens of the context: ids[context_begin, context_end)
    int64_t context_end = 0;
    std::vector<float> start_logits;  // [ids.size()]
    std::vector<float> end_logits;
  };
  // Of each question and the beginning of its context, as much as fits. Throws kInvalidArgument for
  // a question that leaves a context no token, naming both lengths.
  std::vector<Tokens> logits(const std::vector<QuestionContext>& inputs) const;
  // One for each input, from the whole context; nothing where the context has no token. Throws as
  // logits(), and kInvalidArgument for options that are not positive.
  std::vector<std::optional<AnswerSpan>> answer(const std::vector<QuestionContext>& inputs,
                                                const AnswerSpanOptions& options) const;
};

template <typename Model>
struct LoadedHead {
  std::string name;
  std::string path;
  std::string content_hash;
  std::unique_ptr<Model> model;
  bool head_is_new = false;  // the folder has none
};

// A sequence classification head for an encoder that has none: weights drawn from N(0, 0.02^2) and
// biases 0, as transformers makes it.
struct NewHeadOptions {
  std::vector<std::string> labels;  // empty: none is made
  uint64_t seed = 1;
};

// `model` as in load_generator. Throw likewise, and kInvalidArgument naming the class found and
// those wanted when the folder holds a model of another kind.
LoadedHead<SequenceClassifier> load_sequence_classifier(const std::string& model,
                                                        kernels::Precision precision);
// The same, and a folder without a head gets the one of `new_head`.
LoadedHead<SequenceClassifier> load_sequence_classifier(const std::string& model,
                                                        kernels::Precision precision,
                                                        const NewHeadOptions& new_head);
LoadedHead<TokenClassifier> load_token_classifier(const std::string& model,
                                                  kernels::Precision precision);
LoadedHead<QuestionAnswerer> load_question_answerer(const std::string& model,
                                                    kernels::Precision precision);

}  // namespace quarry
