#include "generator/models/encoder_folder.h"

#include "data/core/json.h"
#include "generator/models/config_values.h"

namespace quarry {

// sentence-transformers kept the limit in its own file until it moved to the tokenizer's.
int64_t read_max_tokens(const std::filesystem::path& folder) {
  const std::filesystem::path own = folder / "sentence_bert_config.json";
  if (std::filesystem::exists(own)) {
    const Json json = read_json_file(own);
    const ConfigValues values(json, own.string());
    if (values.has("max_seq_length")) return values.size("max_seq_length");
  }
  const std::filesystem::path tokenizer = folder / "tokenizer_config.json";
  if (!std::filesystem::exists(tokenizer)) return 0;
  const Json json = read_json_file(tokenizer);
  const double limit = ConfigValues(json, tokenizer.string()).number_or("model_max_length", 0.0);
  // transformers writes 1e30 for "no limit".
  return limit >= 1.0 && limit < 1e9 ? static_cast<int64_t>(limit) : 0;
}

}  // namespace quarry
