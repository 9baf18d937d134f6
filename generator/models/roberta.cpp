// RoBERTa (Liu et al. 2019, arXiv:1907.11692) and XLM-RoBERTa (Conneau et al. 2019,
// arXiv:1911.02116): BERT whose positions are counted from the one behind the padding token's.
#include "data/core/error.h"
#include "generator/models/families.h"
#include "generator/models/sentence_encoder.h"

namespace quarry {
namespace {

BertConfig read_config(const TextEncoderSource& source) {
  const ConfigValues values(*source.config, source.description);
  BertConfig config = read_bert_config(values);
  config.root = find_bert_root(*source.tensors, "roberta.");
  config.path = source.path;
  config.has_pooler = source.has_pooler;
  config.position_offset = int64_t{values.token_or("pad_token_id", 1)} + 1;
  QUARRY_CHECK(config.max_tokens() > 0, ErrorCode::kCorruptData, source.description,
               ": max_position_embeddings is ", config.max_positions, ", of which the first ",
               config.position_offset, " stand before a text's first token");
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

TextEncoderFamily roberta_family() {
  return {"roberta",
          make,
          make_stack,
          "Roberta",
          "roberta.",
          "classifier.dense",
          "classifier.out_proj"};
}

TextEncoderFamily xlm_roberta_family() {
  return {"xlm-roberta",        make, make_stack, "XLMRoberta", "roberta.", "classifier.dense",
          "classifier.out_proj"};
}

}  // namespace quarry
