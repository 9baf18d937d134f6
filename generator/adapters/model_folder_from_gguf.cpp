#include "generator/adapters/model_folder_from_gguf.h"

#include <set>

#include "data/core/paths.h"
#include "data/text/hf_tokenizer_file.h"
#include "generator/weights/gguf_tokenizer.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

void write_json(const fs::path& path, const OrderedJson& json) {
  write_file_atomically(path, dump_json(json, 2) + "\n");
}

// A token id of the metadata that is in the vocabulary.
std::optional<int64_t> token_id(const GgufFile& file, const std::string& name, size_t vocab_size) {
  const std::optional<int64_t> id = file.find_int("tokenizer.ggml." + name + "_token_id");
  if (!id || *id < 0 || *id >= static_cast<int64_t>(vocab_size)) return std::nullopt;
  return id;
}

// Ids after which generation ends; one number when there is one.
OrderedJson end_ids(const GgufFile& file, size_t vocab_size) {
  OrderedJson ids = OrderedJson::array();
  std::set<int64_t> seen;
  for (const char* name : {"eos", "eot", "eom"}) {
    const std::optional<int64_t> id = token_id(file, name, vocab_size);
    if (id && seen.insert(*id).second) ids.push_back(*id);
  }
  return ids.size() == 1 ? ids.front() : ids;
}

OrderedJson special_ids(const GgufFile& file, size_t vocab_size) {
  OrderedJson json = OrderedJson::object();
  if (const auto id = token_id(file, "bos", vocab_size)) json["bos_token_id"] = *id;
  const OrderedJson ends = end_ids(file, vocab_size);
  if (!ends.is_array() || !ends.empty()) json["eos_token_id"] = ends;
  if (const auto id = token_id(file, "padding", vocab_size)) json["pad_token_id"] = *id;
  return json;
}

OrderedJson tokenizer_config(const GgufFile& file, const GgufTokenizerData& data) {
  OrderedJson json;
  const std::pair<const char*, const char*> names[] = {{"bos", "bos_token"},
                                                       {"eos", "eos_token"},
                                                       {"unknown", "unk_token"},
                                                       {"padding", "pad_token"}};
  for (const auto& [gguf_name, name] : names) {
    if (const auto id = token_id(file, gguf_name, data.tokens.size())) {
      json[name] = data.tokens[static_cast<size_t>(*id)];
    }
  }
  json["add_bos_token"] = data.add_bos;
  json["add_eos_token"] = data.add_eos;
  json["clean_up_tokenization_spaces"] = false;
  json["tokenizer_class"] = data.model == "llama" ? "LlamaTokenizer" : "PreTrainedTokenizerFast";
  const std::string chat_template = read_gguf_chat_template(file);
  if (!chat_template.empty()) json["chat_template"] = chat_template;
  return json;
}

}  // namespace

void write_model_folder_from_gguf(const GgufFile& file, const CausalLmFamily& family,
                                  const std::string& dtype, const fs::path& folder) {
  const GgufTokenizerData data = read_gguf_tokenizer(file);
  const OrderedJson ids = special_ids(file, data.tokens.size());
  OrderedJson config = family.config_from_gguf(file);
  config["torch_dtype"] = dtype;
  config.update(ids);
  write_json(folder / "config.json", config);
  write_json(folder / "generation_config.json", ids);
  write_json(folder / "tokenizer_config.json", tokenizer_config(file, data));
  const TokenizerFile tokenizer = hf_tokenizer_file(data);
  write_file_atomically(folder / tokenizer.name, tokenizer.bytes);
}

}  // namespace quarry
