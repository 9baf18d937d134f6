#include <algorithm>

#include "data/core/error.h"
#include "data/core/json.h"
#include "data/core/paths.h"
#include "data/core/spill_file.h"
#include "data/core/system_memory.h"
#include "generator/models/device.h"
#include "generator/models/families.h"
#include "generator/models/folder_text.h"
#include "generator/models/generator_memory.h"
#include "generator/nn/kv_cache.h"
#include "generator/weights/bnb_tensors.h"
#include "generator/weights/gguf_file.h"
#include "generator/weights/gguf_tokenizer.h"
#include "generator/weights/model_catalog.h"

namespace quarry {
namespace {

// Ends of a turn or of a text in the chat formats of the families that we run.
constexpr const char* kEndTokens[] = {"<|im_end|>", "<|eot_id|>",    "<|end_of_text|>",
                                      "<|eom_id|>", "<|endoftext|>", "<end_of_turn>",
                                      "<|end|>",    "</s>"};

void add_stop_token(std::vector<int32_t>& stop_tokens, int64_t id, int64_t vocab_size) {
  if (id < 0 || id >= vocab_size) return;
  const int32_t token = static_cast<int32_t>(id);
  if (std::find(stop_tokens.begin(), stop_tokens.end(), token) == stop_tokens.end()) {
    stop_tokens.push_back(token);
  }
}

void add_end_tokens(LoadedGenerator& loaded) {
  for (const char* token : kEndTokens) {
    const int32_t id = loaded.tokenizer->token_id(token);
    if (id >= 0 && loaded.tokenizer->is_special(id)) {
      add_stop_token(loaded.stop_tokens, id, loaded.model->config().vocab_size);
    }
  }
}

// Where weights are to lie, and says so.
void choose_place(const CausalLmFamily& family, const GeneratorOptions& options,
                  CausalLmSource& source, LoadedGenerator& loaded) {
  if (options.offload == Offload::kOff) return;
  if (options.offload == Offload::kAuto) {
    GeneratorMemoryOptions wanted;
    wanted.precision = options.precision;
    wanted.tokens_per_sequence = std::min<int64_t>(2048, family.config(source).max_seq_len);
    if (estimate_generator_memory(family, source, wanted).total() <= available_memory()) return;
  }
  const std::optional<std::filesystem::path> cache = quarry_cache();
  source.weights.spill =
      std::make_shared<SpillFile>(cache ? *cache / "weights" : std::filesystem::path("/var/tmp"));
  loaded.is_offloaded = true;
}

void load_gguf(const ModelLocation& location, const GeneratorOptions& options,
               LoadedGenerator& loaded) {
  const std::unique_ptr<GgufFile> file = GgufFile::open(location.path);
  CausalLmSource source = gguf_source(*file);
  source.weights = options.weights;
  const CausalLmFamily& family = find_causal_lm_family(*file);
  choose_place(family, options, source, loaded);
  loaded.model = family.make(source, options.precision);
  const GgufTokenizerData data = read_gguf_tokenizer(*file);
  loaded.tokenizer = naming_source(file->description(), [&] { return make_gguf_tokenizer(data); });
  const auto token_text = [&](int32_t id) {
    const bool known = id >= 0 && id < static_cast<int32_t>(data.tokens.size());
    return known ? data.tokens[static_cast<size_t>(id)] : std::string();
  };
  const std::string chat_template = read_gguf_chat_template(*file);
  if (!chat_template.empty()) {
    loaded.chat_template = naming_source(file->description(), [&] {
      return std::make_unique<ChatTemplate>(chat_template, token_text(data.bos_id),
                                            token_text(data.eos_id));
    });
  }
  const int64_t vocab_size = loaded.model->config().vocab_size;
  add_stop_token(loaded.stop_tokens, data.eos_id, vocab_size);
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    add_stop_token(loaded.stop_tokens, file->find_int(key).value_or(-1), vocab_size);
  }
}

void load_folder(const ModelLocation& location, const GeneratorOptions& options,
                 LoadedGenerator& loaded) {
  const std::filesystem::path config_path = location.path / "config.json";
  const Json config = read_folder_config(location.path);
  const CausalLmFamily& family = find_causal_lm_family(config, config_path.string());
  const std::unique_ptr<TensorSource> tensors = open_folder_tensors(location.path, config);
  CausalLmSource source;
  source.tensors = tensors.get();
  source.config = &config;
  source.description = config_path.string();
  source.weights = options.weights;
  if (source.weights.load_in == LoadIn::kAsIs) {
    source.weights.load_in = configured_load_in(config, *tensors, source.description);
  }
  choose_place(family, options, source, loaded);
  loaded.model = family.make(source, options.precision);
  loaded.tokenizer = load_tokenizer(location.path);
  loaded.chat_template = load_folder_chat_template(location.path);
  for (int64_t id : folder_end_tokens(location.path)) {
    add_stop_token(loaded.stop_tokens, id, loaded.model->config().vocab_size);
  }
}

}  // namespace

LoadedGenerator load_generator(const std::string& model, kernels::Precision precision) {
  GeneratorOptions options;
  options.precision = precision;
  return load_generator(model, options);
}

LoadedGenerator load_generator(const std::string& model, const GeneratorOptions& options) {
  const ModelLocation location = resolve_model(model);
  LoadedGenerator loaded;
  loaded.name = location.name;
  loaded.path = location.path;
  loaded.options = options;
  if (location.kind == ModelLocation::Kind::kGgufFile) {
    load_gguf(location, options, loaded);
  } else {
    load_folder(location, options, loaded);
  }
  QUARRY_CHECK(loaded.tokenizer->vocab_size() <= loaded.model->config().vocab_size,
               ErrorCode::kCorruptData, location.path.string(), ": the tokenizer knows ",
               loaded.tokenizer->vocab_size(), " tokens, the model ",
               loaded.model->config().vocab_size);
  add_end_tokens(loaded);
  const DeviceChoice choice =
      choose_device(options.device, [&] { loaded.model = move_to_cuda(std::move(loaded.model)); });
  loaded.device = choice.device;
  loaded.why_cpu = choice.why_cpu;
  loaded.content_hash = model_content_hash(location);
  return loaded;
}

}  // namespace quarry
