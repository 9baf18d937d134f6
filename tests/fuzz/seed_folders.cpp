// The sound files that mutations start from.
#include <algorithm>
#include <fstream>
#include <iterator>

#include "data/core/error.h"
#include "data/core/paths.h"
#include "data/store/passage_store.h"
#include "generator/adapters/gguf_adapter.h"
#include "generator/weights/safetensors_file.h"
#include "retriever/vector_index.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/random_values.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry::fuzz {
namespace {

namespace fs = std::filesystem;

fs::path golden(const std::string& name) {
  return fs::path(QUARRY_SOURCE_DIR) / "tests" / "golden" / name;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  QUARRY_CHECK(file.good(), ErrorCode::kNotFound, path.string(), ": cannot be read");
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

// The files of one folder and its subfolders, but for goldens and weights larger than a model
// needs.
void copy_model(const fs::path& from, const fs::path& to) {
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("golden", 0) == 0 || name.rfind("lora", 0) == 0) continue;
    if (entry.path().extension() == ".gguf") continue;
    fs::copy(entry.path(), to / name, fs::copy_options::recursive);
  }
}

std::vector<fs::path> subfolders(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_directory()) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

// Models of every family.
std::vector<fs::path> golden_models() {
  std::vector<fs::path> models = subfolders(golden("families"));
  for (const fs::path& path : subfolders(golden("encoder_decoders"))) models.push_back(path);
  for (const char* name : {"models/llama", "models/llama_scaled"}) models.push_back(golden(name));
  return models;
}

// One tensor of every type that GGUF files hold, with random bytes.
void make_gguf_of_all_types(const fs::path& path) {
  test::GgufBuilder builder;
  builder.set_string("general.architecture", "none");
  builder.set_floats("floats", {1.0F, 2.0F});
  builder.set_int32s("ints", {1, -1});
  builder.set_strings("strings", {"a", ""});
  builder.set_bool("bool", true);
  Dice dice(1, 1);
  for (const WeightType type :
       {WeightType::kF32, WeightType::kF16, WeightType::kBF16, WeightType::kI8, WeightType::kI32,
        WeightType::kI64, WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ5_0,
        WeightType::kQ5_1, WeightType::kQ8_0, WeightType::kQ4_K, WeightType::kQ5_K,
        WeightType::kQ6_K}) {
    std::string data(static_cast<size_t>(weight_bytes(type, 2 * 3 * 256)), '\0');
    for (char& byte : data) byte = static_cast<char>(dice.below(256));
    builder.add_encoded_tensor(std::string("t.") + weight_type_traits(type).name, type, {2, 3, 256},
                               data);
  }
  builder.write(path);
}

// The model's tensors in two files and an index.
void split_model(const fs::path& from, const fs::path& to) {
  copy_model(from, to);
  fs::remove(to / "model.safetensors");
  const auto file = SafetensorsFile::open(from);
  Json weight_map = Json::object();
  std::vector<TensorToWrite> parts[2];
  for (size_t i = 0; i < file->tensors().size(); ++i) {
    const TensorView& tensor = file->tensors()[i];
    parts[i % 2].push_back({tensor.name, tensor.type, tensor.shape, tensor.data});
    weight_map[tensor.name] = i % 2 == 0 ? "part-1.safetensors" : "part-2.safetensors";
  }
  write_safetensors(to / "part-1.safetensors", parts[0], {{"format", "pt"}});
  write_safetensors(to / "part-2.safetensors", parts[1], {{"format", "pt"}});
  const Json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", weight_map}};
  write_file_atomically(to / "model.safetensors.index.json", dump_json(index));
}

void make_index(const fs::path& folder) {
  constexpr int64_t kDim = 8;
  fs::create_directories(folder);
  StoreManifest manifest;
  manifest.format_version = 1;
  manifest.embedder_name = "letters";
  manifest.embedder_hash = "0123";
  manifest.dim = kDim;
  manifest.chunk_tokens = 64;
  manifest.chunk_overlap_tokens = 8;
  manifest.created_at = "2024-01-01T00:00:00Z";
  const auto store = PassageStore::create(folder / "store.sqlite", manifest);
  test::RandomValues random(1);
  std::vector<int64_t> ids;
  std::vector<float> all;
  store->begin();
  for (int i = 0; i < 12; ++i) {
    std::vector<float> vector = random.normal(kDim, 0.0, 1.0);
    float squares = 0.0F;
    for (const float value : vector) squares += value * value;
    for (float& value : vector) value /= std::sqrt(squares);
    Document document;
    document.uri = concat("/docs/", i, ".txt");
    document.title = concat("Document ", i);
    document.format = "text";
    document.content_hash = concat("hash", i);
    document.text = concat("The keeper of lighthouse ", i, " wrote down the weather every day.");
    document.metadata = {{"author", concat("a", i % 3)}};
    Passage passage;
    passage.start = 0;
    passage.end = static_cast<int64_t>(document.text.size());
    passage.text = document.text;
    store->put_document(document, {passage}, vector.data());
    ids.push_back(i + 1);
    all.insert(all.end(), vector.begin(), vector.end());
  }
  store->commit();
  for (const VectorIndexKind kind : {VectorIndexKind::kFlat, VectorIndexKind::kHnsw}) {
    const auto index = make_vector_index(kind, kDim);
    index->add(ids, all.data());
    index->save(folder / (std::string(vector_index_kind_name(kind)) + ".snapshot"),
                {1, 12, "0123", manifest.created_at});
  }
}

void add_target(const fs::path& folder, const std::string& format, const std::string& file,
                FileKind kind, std::vector<FuzzTarget>& targets) {
  if (!fs::exists(folder / file)) return;
  targets.push_back({format, folder, file, make_seed_file(kind, read_file(folder / file))});
}

}  // namespace

const std::vector<std::string>& formats() {
  static const std::vector<std::string> names = {"gguf",    "safetensors", "tokenizer", "config",
                                                 "adapter", "template",    "index"};
  return names;
}

void make_seed_folders(const fs::path& folder) {
  for (const fs::path& model : golden_models()) {
    const std::string name = model.filename().string();
    copy_model(model, folder / "model" / name);
    if (fs::exists(model / "model.gguf")) {
      fs::create_directories(folder / "gguf" / name);
      fs::copy(model / "model.gguf", folder / "gguf" / name / "model.gguf");
    }
    for (const char* lora : {"lora", "lora_all", "lora_qv"}) {
      if (!fs::exists(model / lora)) continue;
      // The base by its name: the part before the dot.
      fs::create_directories(folder / "adapter");
      fs::copy(model / lora, folder / "adapter" / (name + "." + lora), fs::copy_options::recursive);
    }
  }
  fs::create_directories(folder / "gguf" / "tiny");
  fs::rename(write_tiny_llama_gguf(folder / "gguf" / "tiny", 3),
             folder / "gguf" / "tiny" / "model.gguf");
  fs::create_directories(folder / "gguf" / "types");
  make_gguf_of_all_types(folder / "gguf" / "types" / "model.gguf");

  fs::create_directories(folder / "encoder");
  copy_model(golden("models/bert"), folder / "encoder" / "bert");
  fs::create_directories(folder / "encoder" / "tiny");
  write_tiny_bert_folder(folder / "encoder" / "tiny", 4);
  split_model(golden("models/llama"), folder / "model" / "sharded");
  fs::create_directories(folder / "tensors" / "bnb");
  fs::copy(golden("bitsandbytes/layers.safetensors"),
           folder / "tensors" / "bnb" / "model.safetensors");

  for (const char* name : {"saved_mlp", "saved_head", "bias_all", "patterns"}) {
    const bool scaled = std::string(name) == "saved_mlp" || std::string(name) == "bias_all";
    copy_model(golden("peft") / name,
               folder / "adapter" / ((scaled ? "llama_scaled." : "llama.") + std::string(name)));
  }
  const auto base = ModelFile::open(resolve_model((folder / "model" / "llama").string()));
  ConvertOptions convert;
  convert.check_base = false;
  fs::create_directories(folder / "gguf_adapter" / "llama.gguf");
  adapter_to_gguf(folder / "adapter" / "llama.lora_qv", *base,
                  folder / "gguf_adapter" / "llama.gguf" / "adapter.gguf", convert);

  for (const fs::path& tokenizer : subfolders(golden("tokenizers"))) {
    fs::create_directories(folder / "tokenizer");
    copy_model(tokenizer, folder / "tokenizer" / tokenizer.filename());
  }
  for (const char* name : {"charsmap_unigram", "charsmap_bpe"}) {
    const fs::path to = folder / "tokenizer" / name;
    fs::create_directories(to);
    fs::copy(fs::path(QUARRY_SOURCE_DIR) / "tests/fuzz/seeds" / (std::string(name) + ".model"),
             to / "spiece.model");
  }
  for (const auto& entry : fs::directory_iterator(golden("chat_templates/templates"))) {
    const fs::path to = folder / "template" / entry.path().stem();
    fs::create_directories(to);
    fs::copy(entry.path(), to / "chat_template.jinja");
  }
  make_index(folder / "index" / "store");
}

std::vector<FuzzTarget> list_targets(const fs::path& folder) {
  std::vector<FuzzTarget> targets;
  for (const char* kind : {"model", "encoder"}) {
    for (const fs::path& model : subfolders(folder / kind)) {
      for (const char* file : {"model.safetensors", "part-1.safetensors"}) {
        add_target(model, "safetensors", file, FileKind::kSafetensors, targets);
      }
      add_target(model, "safetensors", "model.safetensors.index.json", FileKind::kJson, targets);
      for (const char* file : {"config.json", "generation_config.json", "modules.json",
                               "1_Pooling/config.json", "sentence_bert_config.json"}) {
        add_target(model, "config", file, FileKind::kJson, targets);
      }
      add_target(model, "tokenizer", "tokenizer.json", FileKind::kJson, targets);
      add_target(model, "tokenizer", "tokenizer_config.json", FileKind::kJson, targets);
      if (!fs::exists(model / "tokenizer.json")) {
        add_target(model, "tokenizer", "vocab.txt", FileKind::kText, targets);
      }
    }
  }
  for (const fs::path& tokenizer : subfolders(folder / "tokenizer")) {
    add_target(tokenizer, "tokenizer", "tokenizer.json", FileKind::kJson, targets);
    add_target(tokenizer, "tokenizer", "tokenizer.model", FileKind::kBinary, targets);
    add_target(tokenizer, "tokenizer", "spiece.model", FileKind::kBinary, targets);
  }
  for (const fs::path& file : subfolders(folder / "gguf")) {
    add_target(file, "gguf", "model.gguf", FileKind::kGguf, targets);
  }
  add_target(folder / "tensors" / "bnb", "safetensors", "model.safetensors", FileKind::kSafetensors,
             targets);
  for (const fs::path& adapter : subfolders(folder / "adapter")) {
    add_target(adapter, "adapter", "adapter_model.safetensors", FileKind::kSafetensors, targets);
    add_target(adapter, "adapter", "adapter_config.json", FileKind::kJson, targets);
  }
  add_target(folder / "gguf_adapter" / "llama.gguf", "adapter", "adapter.gguf", FileKind::kGguf,
             targets);
  for (const fs::path& file : subfolders(folder / "template")) {
    add_target(file, "template", "chat_template.jinja", FileKind::kText, targets);
  }
  for (const char* file : {"store.sqlite", "flat.snapshot", "hnsw.snapshot"}) {
    add_target(folder / "index" / "store", "index", file, FileKind::kBinary, targets);
  }
  return targets;
}

}  // namespace quarry::fuzz
