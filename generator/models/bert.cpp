// BERT (Devlin et al. 2018, arXiv:1810.04805).
#include "generator/models/families.h"
#include "generator/models/sentence_encoder.h"

namespace quarry {
namespace {

// BertModel saves its weights bare, BertFor... under "bert.".
BertConfig read_config(const TextEncoderSource& source) {
  BertConfig config = read_bert_config(ConfigValues(*source.config, source.description));
  config.root = find_bert_root(*source.tensors, "bert.");
  config.path = source.path;
  config.has_pooler = source.has_pooler;
  return config;
}

std::unique_ptr<BertStack> make_stack(const TextEncoderSource& source,
                                      kernels::Precision precision) {
  return std::make_unique<BertStack>(*source.tensors, read_config(source), precision);
}

std::unique_ptr<TextEncoder> make(const TextEncoderSource& source,
                                  std::unique_ptr<Tokenizer> tokenizer,
                                  kernels::Precision precision) {
  SentenceEncoderParts parts;
  parts.stack = make_stack(source, precision);
  parts.tokenizer = std::move(tokenizer);
  parts.pooling = source.pooling;
  parts.max_tokens = source.max_tokens;
  return make_sentence_encoder(std::move(parts), source.description);
}

}  // namespace

TextEncoderFamily bert_family() {
  return {"bert", make, make_stack, "Bert", "bert.", "bert.pooler.dense", "classifier"};
}

}  // namespace quarry
