// Dense passage retrieval (Karpukhin et al. 2020, arXiv:2004.04906): one BERT for questions,
// another for passages. A text's vector is that of its first token, of whatever length: they are
// compared by inner product.
#include "data/core/error.h"
#include "generator/models/families.h"
#include "generator/models/sentence_encoder.h"
#include "generator/nn/load.h"

namespace quarry {
namespace {

// "question_encoder." or "ctx_encoder.", whichever the file has.
std::string find_side(const TextEncoderSource& source) {
  for (const char* side : {"question_encoder.", "ctx_encoder."}) {
    if (!find_bert_root(*source.tensors, std::string(side) + "bert_model.").empty()) return side;
  }
  throw_error(ErrorCode::kInvalidArgument, source.tensors->description(),
              ": holds neither question_encoder.bert_model nor ctx_encoder.bert_model: of DPR's "
              "models only the two encoders make vectors");
}

std::unique_ptr<nn::Linear> load_projection(const TextEncoderSource& source,
                                            const std::string& path, int64_t in, int64_t out,
                                            kernels::Precision precision) {
  nn::Projection projection;
  projection.path = path;
  projection.weight = &nn::get_checked(*source.tensors, path + ".weight", {out, in});
  projection.bias = &nn::get_checked(*source.tensors, path + ".bias", {out});
  return std::make_unique<nn::Linear>(std::vector<nn::Projection>{projection}, precision);
}

std::unique_ptr<TextEncoder> make(const TextEncoderSource& source,
                                  std::unique_ptr<Tokenizer> tokenizer,
                                  kernels::Precision precision) {
  const ConfigValues values(*source.config, source.description);
  BertConfig config = read_bert_config(values);
  const std::string side = find_side(source);
  config.root = side + "bert_model.";
  config.path = config.root;
  config.has_pooler = false;
  SentenceEncoderParts parts;
  parts.stack = std::make_unique<BertStack>(*source.tensors, config, precision);
  parts.tokenizer = std::move(tokenizer);
  parts.pooling = Pooling::kCls;
  parts.max_tokens = source.max_tokens;
  parts.unit_length = false;
  const double projection_dim = values.number_or("projection_dim", 0.0);
  if (projection_dim != 0.0) {
    parts.projection = load_projection(source, side + "encode_proj", config.hidden_size,
                                       values.size("projection_dim"), precision);
  }
  return make_sentence_encoder(std::move(parts), source.description);
}

}  // namespace

TextEncoderFamily dpr_family() { return {"dpr", make}; }

}  // namespace quarry
