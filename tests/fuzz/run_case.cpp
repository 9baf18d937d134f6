// What one case does with the file it is given.
#include <algorithm>
#include <cstring>
#include <map>

#include "data/core/error.h"
#include "data/store/passage_store.h"
#include "data/text/chat_template.h"
#include "generator/adapters/adapter_catalog.h"
#include "generator/adapters/gguf_adapter.h"
#include "generator/models/families.h"
#include "generator/models/folder_text.h"
#include "generator/nn/kv_cache.h"
#include "generator/nn/lora.h"
#include "generator/weights/bnb_tensors.h"
#include "generator/weights/gguf_tokenizer.h"
#include "retriever/vector_index.h"
#include "tests/fuzz/fuzz_target.h"

namespace quarry::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTexts[] = {
    "the quick brown fox, 42!",
    "  Caf\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E \xEF\xBC\xA1\xEF\xAC\x81\xE2\x80\xA6 "
    "<s>[SEP]<tool>\n\t\xF0\x9F\x98\x80",
    "\xFF\xC3 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "",
};
constexpr int64_t kPromptTokens = 6;

void require(bool condition, const std::string& what) {
  if (!condition) throw Failure(what);
}

// --- tensors ---

// Decodes every value; small files only.
void decode_all(const std::vector<TensorView>& tensors) {
  for (const TensorView& tensor : tensors) {
    std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
    decode_tensor(tensor, values.data());
  }
}

// Each view has the name, type and shape that the header gives it and holds just the bytes that lie
// there; none is missing.
int64_t check_tensors(const std::vector<TensorView>& views, const FileFacts& facts,
                      const std::string& bytes) {
  std::map<std::string, const TensorFacts*> wanted;
  for (const TensorFacts& tensor : facts.tensors) {
    if (is_read(tensor.type)) wanted[tensor.name] = &tensor;
  }
  require(views.size() == wanted.size(),
          concat(views.size(), " tensors, the header lists ", wanted.size()));
  for (const TensorView& view : views) {
    const auto found = wanted.find(view.name);
    require(found != wanted.end(), "a tensor that the header does not list");
    const TensorFacts& tensor = *found->second;
    require(weight_type_traits(view.type).name == tensor.type, "a tensor of another type");
    require(view.shape == tensor.shape, "a tensor of another shape");
    require(static_cast<uint64_t>(view.bytes) == tensor.end - tensor.begin,
            "a tensor of another size");
    require(view.bytes == 0 || std::memcmp(view.data, bytes.data() + tensor.begin,
                                           static_cast<size_t>(view.bytes)) == 0,
            "a tensor with other bytes than the file");
  }
  decode_all(views);
  return static_cast<int64_t>(views.size());
}

int64_t check_file(const std::vector<TensorView>& views, const FuzzTarget& target,
                   const MutatedFile& mutated) {
  // Where only data changed the seed's header holds, whatever parser reads it.
  if (mutated.is_data_only) return check_tensors(views, *target.seed.facts, mutated.bytes);
  const std::optional<FileFacts> facts = target.seed.kind == FileKind::kGguf
                                             ? gguf_facts(mutated.bytes)
                                             : safetensors_facts(mutated.bytes);
  require(facts.has_value(), "loaded, though the format forbids the file");
  return check_tensors(views, *facts, mutated.bytes);
}

// Opening must not mind the values of tensors.
template <typename Open>
auto open_weights(const MutatedFile& mutated, const Open& open) -> decltype(open()) {
  try {
    return open();
  } catch (const Error& error) {
    require(!mutated.is_data_only,
            std::string("refused for the values of its tensors: ") + error.what());
    throw;
  }
}

// --- tokenizers and templates ---

void check_ids(const std::vector<int32_t>& ids, const Tokenizer& tokenizer) {
  for (const int32_t id : ids) {
    require(id >= 0 && id < tokenizer.vocab_size(),
            concat("token ", id, " of ", tokenizer.vocab_size()));
  }
}

// No text may make a tokenizer throw.
void use_tokenizer(const Tokenizer& tokenizer) {
  try {
    for (const char* text : kTexts) {
      for (const auto special : {Tokenizer::SpecialTokens::kNone, Tokenizer::SpecialTokens::kAdd,
                                 Tokenizer::SpecialTokens::kParse}) {
        const std::vector<int32_t> ids = tokenizer.encode(text, special);
        check_ids(ids, tokenizer);
        tokenizer.decode(ids);
        IncrementalDecoder decoder(tokenizer, true);
        for (const int32_t id : ids) decoder.push(id);
        decoder.finish();
      }
    }
    const int64_t size = tokenizer.vocab_size();
    for (int64_t id = -1; id <= size; id += 1 + size / 64) {
      tokenizer.token_bytes(static_cast<int32_t>(id));
      tokenizer.is_special(static_cast<int32_t>(id));
    }
  } catch (const Error& error) {
    throw Failure(std::string("a tokenizer that loaded throws: ") + error.what());
  }
}

void use_template(const ChatTemplate& chat) {
  try {
    chat.render({{"system", "Be brief."}, {"user", "Hello"}, {"assistant", "Hi."}, {"user", "?"}},
                true);
    chat.render({{"user", "Hello"}}, false);
  } catch (const Error& error) {
    // A template may refuse messages, and does what it likes with them.
    require(error.code() == ErrorCode::kInvalidArgument,
            std::string("a template that loaded throws: ") + error.what());
  }
}

// --- models ---

std::vector<int32_t> prompt_for(const CausalLm& model, const Tokenizer& tokenizer) {
  std::vector<int32_t> prompt = tokenizer.encode(kTexts[0], Tokenizer::SpecialTokens::kAdd);
  const CausalLmConfig& config = model.config();
  const int64_t longest = std::min(kPromptTokens, config.max_prompt_tokens());
  if (static_cast<int64_t>(prompt.size()) > longest) prompt.resize(static_cast<size_t>(longest));
  if (prompt.empty()) prompt.push_back(0);
  return prompt;
}

void run_model(const CausalLm& model, const std::vector<int32_t>& prompt,
               const LoraAdapter* adapter) {
  try {
    const std::unique_ptr<KvCache> cache = model.make_cache();
    const std::vector<int32_t> tokens = begin_sequence(model, prompt, adapter, *cache);
    SequenceChunk chunk;
    chunk.tokens = tokens.data();
    chunk.num_tokens = static_cast<int64_t>(tokens.size());
    chunk.cache = cache.get();
    chunk.adapter = adapter;
    const std::vector<float> logits = model.forward({chunk});
    require(static_cast<int64_t>(logits.size()) == model.config().vocab_size,
            concat(logits.size(), " logits of ", model.config().vocab_size));
  } catch (const Error& error) {
    // A context of one token, a prompt token beyond the vocabulary.
    require(error.code() == ErrorCode::kInvalidArgument,
            std::string("a model that loaded throws: ") + error.what());
  }
}

kernels::Precision any_precision(Dice& dice) {
  return dice.chance(50) ? kernels::Precision::kFast : kernels::Precision::kExact;
}

void use_generator(const std::string& path, Dice& dice) {
  const LoadedGenerator loaded = load_generator(path, any_precision(dice));
  use_tokenizer(*loaded.tokenizer);
  if (loaded.chat_template) use_template(*loaded.chat_template);
  run_model(*loaded.model, prompt_for(*loaded.model, *loaded.tokenizer), nullptr);
}

void use_encoder(const fs::path& folder, Dice& dice) {
  const LoadedEncoder loaded = load_text_encoder(folder.string(), any_precision(dice));
  use_tokenizer(loaded.model->tokenizer());
  try {
    const std::vector<float> vectors = loaded.model->encode({kTexts[0], kTexts[1], kTexts[3]});
    require(static_cast<int64_t>(vectors.size()) == 3 * loaded.model->dim(), "vectors are missing");
  } catch (const Error& error) {
    throw Failure(std::string("an embedder that loaded throws: ") + error.what());
  }
}

void use_model_folder(const FuzzTarget& target, const fs::path& folder, Dice& dice) {
  if (target.folder.parent_path().filename() == "encoder") {
    use_encoder(folder, dice);
  } else {
    use_generator(folder.string(), dice);
  }
}

int64_t run_gguf(const FuzzTarget& target, const fs::path& path, const MutatedFile& mutated,
                 Dice& dice) {
  const auto file = open_weights(mutated, [&] { return GgufFile::open(path); });
  const int64_t checked = check_file(file->tensors(), target, mutated);
  for (const std::string& key : file->keys()) {
    require(!file->get_raw(key).empty(), "metadata without bytes");
  }
  use_generator(path.string(), dice);
  return checked;
}

int64_t run_safetensors(const FuzzTarget& target, const fs::path& folder,
                        const MutatedFile& mutated, Dice& dice) {
  int64_t checked = 0;
  if (target.seed.facts) {
    auto file = open_weights(mutated, [&] { return SafetensorsFile::open(folder / target.file); });
    checked = check_file(file->tensors(), target, mutated);
    decode_all(join_bnb_tensors(std::move(file))->tensors());
  } else {
    decode_all(SafetensorsFile::open(folder)->tensors());
  }
  if (fs::exists(folder / "config.json")) use_model_folder(target, folder, dice);
  return checked;
}

// --- adapters ---

// The models that adapters are for, loaded once.
const LoadedGenerator& base_model(const fs::path& folder) {
  static std::map<std::string, LoadedGenerator> loaded;
  auto found = loaded.find(folder.string());
  if (found == loaded.end()) {
    LoadedGenerator base = load_generator(folder.string(), kernels::Precision::kFast);
    found = loaded.emplace(folder.string(), std::move(base)).first;
  }
  return found->second;
}

int64_t run_adapter(const FuzzTarget& target, const fs::path& folder, const MutatedFile& mutated) {
  const std::string name = target.folder.filename().string();
  const fs::path base_folder =
      target.folder.parent_path().parent_path() / "model" / name.substr(0, name.find('.'));
  if (target.seed.kind == FileKind::kGguf) {
    const fs::path path = folder / target.file;
    const auto file = open_weights(mutated, [&] { return GgufFile::open(path); });
    const int64_t checked = check_file(file->tensors(), target, mutated);
    describe_adapter(path);
    const fs::path out = folder / "converted";
    fs::remove_all(out);
    ConvertOptions convert;
    convert.check_base = false;
    gguf_to_adapter(path, *ModelFile::open(resolve_model(base_folder.string())), out, convert);
    return checked;
  }
  int64_t checked = 0;
  if (target.seed.facts) {
    const auto file =
        open_weights(mutated, [&] { return SafetensorsFile::open(folder / target.file); });
    checked = check_file(file->tensors(), target, mutated);
  }
  describe_adapter(folder);
  const CausalLm& model = *base_model(base_folder).model;
  const auto adapter = LoraAdapter::load(folder, model.linear_slots(), model.tensor_slots());
  run_model(model, {1, 2, 3, 4}, adapter.get());
  return checked;
}

// --- indexes ---

void run_index(const FuzzTarget& target, const fs::path& folder) {
  const fs::path path = folder / target.file;
  if (path.extension() == ".snapshot") {
    const VectorSnapshot snapshot = load_vector_index(path);
    const std::vector<float> query(static_cast<size_t>(snapshot.index->dim()), 0.5F);
    snapshot.index->search(query.data(), 1, 3);
    return;
  }
  const auto store = PassageStore::open(path, PassageStore::Mode::kReadOnly);
  store->stats();
  store->list_documents("");
  store->document("/docs/3.txt");
  std::vector<int64_t> ids;
  for (const auto& scored : store->search_text("lighthouse weather 3", 5)) {
    ids.push_back(scored.passage_id);
  }
  store->passages(ids);
  store->passages_where({{"author", "a1"}});
  store->for_each_vector(0, [](int64_t, const float*) {});
  store->removed_since(0);
  store->verify();
}

int64_t load_and_use(const FuzzTarget& target, const fs::path& folder, const MutatedFile& mutated,
                     Dice& dice) {
  if (target.format == "gguf") return run_gguf(target, folder / target.file, mutated, dice);
  if (target.format == "safetensors") return run_safetensors(target, folder, mutated, dice);
  if (target.format == "adapter") return run_adapter(target, folder, mutated);
  if (target.format == "config") {
    use_model_folder(target, folder, dice);
  } else if (target.format == "tokenizer") {
    use_tokenizer(*load_tokenizer(folder));
    if (fs::exists(folder / "config.json")) load_folder_chat_template(folder);
  } else if (target.format == "template") {
    const auto chat = load_folder_chat_template(folder);
    if (chat) use_template(*chat);
  } else {
    run_index(target, folder);
  }
  return 0;
}

}  // namespace

CaseResult run_case(const FuzzTarget& target, const fs::path& folder, const MutatedFile& mutated,
                    Dice& dice) {
  constexpr size_t kLongestMessage = 4096;
  CaseResult result;
  try {
    result.tensors_checked = load_and_use(target, folder, mutated, dice);
  } catch (const Error& error) {
    result.refused = true;
    result.message = error.what();
    require(error.code() != ErrorCode::kInternal && error.code() != ErrorCode::kUnavailable,
            concat("refused as ", error_code_name(error.code()), ": ", error.what()));
    require(result.message.find(folder.string()) != std::string::npos,
            "refused without a word on the file: " + result.message.substr(0, 300));
    require(
        result.message.size() <= kLongestMessage,
        concat("refused with ", result.message.size(), " bytes: ", result.message.substr(0, 300)));
  }
  return result;
}

}  // namespace quarry::fuzz
