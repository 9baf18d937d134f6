#include "data/core/error.h"
#include "generator/models/config_values.h"
#include "generator/models/families.h"

namespace quarry {
namespace {

const CausalLmFamily& find_family(const std::string& source, const std::string& found,
                                  const char* CausalLmFamily::*name) {
  std::string known;
  for (const CausalLmFamily& family : causal_lm_families()) {
    if (family.*name == nullptr) continue;
    if (found == family.*name) return family;
    known += (known.empty() ? "" : ", ") + std::string(family.*name);
  }
  throw_error(ErrorCode::kInvalidArgument, source, ": generator family '", found,
              "' is not supported (known: ", known, ")");
}

}  // namespace

const std::vector<CausalLmFamily>& causal_lm_families() {
  static const std::vector<CausalLmFamily> families = {
      llama_family(), mistral_family(), qwen2_family(),    qwen3_family(), gemma3_family(),
      phi3_family(),  gpt2_family(),    gpt_neox_family(), opt_family(),   bloom_family(),
      t5_family(),    mt5_family(),     bart_family(),
  };
  return families;
}

CausalLmSource gguf_source(const GgufFile& file) {
  CausalLmSource source;
  source.tensors = &file;
  source.gguf = &file;
  source.description = file.description();
  return source;
}

const CausalLmFamily& find_causal_lm_family(const GgufFile& file) {
  return find_family(file.description(), file.get_string("general.architecture"),
                     &CausalLmFamily::gguf_architecture);
}

const CausalLmFamily& find_causal_lm_family(const Json& config, const std::string& source) {
  const auto it = config.find("architectures");
  QUARRY_CHECK(it != config.end() && it->is_array() && !it->empty() && it->front().is_string(),
               ErrorCode::kCorruptData, source, ": 'architectures' does not name a model class");
  return find_family(source, it->front().get<std::string>(), &CausalLmFamily::hf_class);
}

const std::vector<TextEncoderFamily>& text_encoder_families() {
  static const std::vector<TextEncoderFamily> families = {
      bert_family(),
      roberta_family(),
      xlm_roberta_family(),
      dpr_family(),
  };
  return families;
}

const TextEncoderFamily& find_text_encoder_family(const Json& config, const std::string& source) {
  const std::string found = ConfigValues(config, source).text_or("model_type", "");
  std::string known;
  for (const TextEncoderFamily& family : text_encoder_families()) {
    if (found == family.model_type) return family;
    known += (known.empty() ? "" : ", ") + std::string(family.model_type);
  }
  throw_error(ErrorCode::kInvalidArgument, source, ": encoder family '", found,
              "' is not supported (known: ", known, ")");
}

}  // namespace quarry
