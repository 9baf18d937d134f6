#include "generator/weights/gguf_tokenizer.h"

#include <limits>

#include "data/core/error.h"

namespace quarry {
namespace {

int32_t special_id(const GgufFile& file, const std::string& key, size_t vocab_size) {
  const std::optional<int64_t> id = file.find_int(key);
  if (!id) return -1;
  QUARRY_CHECK(*id >= 0 && *id < static_cast<int64_t>(vocab_size), ErrorCode::kCorruptData,
               file.description(), ": metadata '", key, "' is ", *id, ", the vocabulary has ",
               vocab_size, " tokens");
  return static_cast<int32_t>(*id);
}

void check_length(const GgufFile& file, const char* key, size_t found, size_t vocab_size) {
  QUARRY_CHECK(found == 0 || found == vocab_size, ErrorCode::kCorruptData, file.description(),
               ": metadata '", key, "' has ", found, " elements, the vocabulary has ", vocab_size,
               " tokens");
}

}  // namespace

GgufTokenizerData read_gguf_tokenizer(const GgufFile& file) {
  GgufTokenizerData data;
  data.model = file.get_string("tokenizer.ggml.model");
  data.pre = file.find_string("tokenizer.ggml.pre").value_or("default");
  data.tokens = file.get_strings("tokenizer.ggml.tokens");
  QUARRY_CHECK(!data.tokens.empty() && data.tokens.size() <= std::numeric_limits<int32_t>::max(),
               ErrorCode::kCorruptData, file.description(), ": tokenizer.ggml.tokens holds ",
               data.tokens.size(), " tokens");
  const size_t vocab_size = data.tokens.size();
  data.scores = file.find_floats("tokenizer.ggml.scores").value_or(std::vector<float>{});
  check_length(file, "tokenizer.ggml.scores", data.scores.size(), vocab_size);
  for (const int64_t type :
       file.find_ints("tokenizer.ggml.token_type").value_or(std::vector<int64_t>{})) {
    QUARRY_CHECK(type >= 0 && type <= 6, ErrorCode::kCorruptData, file.description(),
                 ": metadata 'tokenizer.ggml.token_type' holds ", type, ", wanted 1 to 6");
    data.token_types.push_back(static_cast<int32_t>(type));
  }
  check_length(file, "tokenizer.ggml.token_type", data.token_types.size(), vocab_size);
  data.merges = file.find_strings("tokenizer.ggml.merges").value_or(std::vector<std::string>{});
  data.bos_id = special_id(file, "tokenizer.ggml.bos_token_id", vocab_size);
  data.eos_id = special_id(file, "tokenizer.ggml.eos_token_id", vocab_size);
  data.unknown_id = special_id(file, "tokenizer.ggml.unknown_token_id", vocab_size);
  // Absent flags mean what each kind of model does: sentencepiece models begin with <s>.
  data.add_bos = file.find_bool("tokenizer.ggml.add_bos_token").value_or(data.model == "llama");
  data.add_eos = file.find_bool("tokenizer.ggml.add_eos_token").value_or(false);
  data.add_space_prefix = file.find_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  return data;
}

std::string read_gguf_chat_template(const GgufFile& file) {
  return file.find_string("tokenizer.chat_template").value_or("");
}

}  // namespace quarry
