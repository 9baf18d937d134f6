#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "data/core/json.h"
#include "generator/weights/safetensors_file.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/random_values.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

constexpr int64_t kHidden = 64;
constexpr int64_t kIntermediate = 128;
constexpr int64_t kLayers = 2;
constexpr int64_t kPositions = 128;

std::vector<std::string> make_vocabulary() {
  std::vector<std::string> vocabulary = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  const std::string letters = "abcdefghijklmnopqrstuvwxyz0123456789";
  for (const char c : letters) vocabulary.push_back(std::string(1, c));
  for (const char c : letters) vocabulary.push_back(std::string("##") + c);
  for (const char c : std::string("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")) {
    vocabulary.push_back(std::string(1, c));
  }
  for (const char* piece : {"the", "of", "and", "to", "in", "is", "##ing", "##ed", "##er", "what",
                            "who", "where", "when", "##tion", "##ly"}) {
    vocabulary.push_back(piece);
  }
  return vocabulary;
}

// Owns the values until the file is written.
class Weights {
 public:
  explicit Weights(uint64_t seed) : random_(seed) {}

  void add_normal(const std::string& name, const std::vector<int64_t>& shape, double mean,
                  double deviation) {
    const int64_t count =
        std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    values_[name] = random_.normal(count, mean, deviation);
    tensors_.push_back({name, WeightType::kF32, shape, values_[name].data()});
  }
  void add_linear(const std::string& name, int64_t out, int64_t in) {
    add_normal(name + ".weight", {out, in}, 0.0, 1.0 / std::sqrt(static_cast<double>(in)));
    add_normal(name + ".bias", {out}, 0.0, 0.1);
  }
  void add_norm(const std::string& name) {
    add_normal(name + ".weight", {kHidden}, 1.0, 0.1);
    add_normal(name + ".bias", {kHidden}, 0.0, 0.1);
  }
  void write(const std::filesystem::path& path) const {
    write_safetensors(path, tensors_, {{"format", "pt"}});
  }

 private:
  test::RandomValues random_;
  std::map<std::string, std::vector<float>> values_;
  std::vector<TensorToWrite> tensors_;
};

void write_weights(const std::filesystem::path& path, int64_t vocab_size, uint64_t seed) {
  Weights weights(seed);
  weights.add_normal("embeddings.word_embeddings.weight", {vocab_size, kHidden}, 0.0, 0.5);
  weights.add_normal("embeddings.position_embeddings.weight", {kPositions, kHidden}, 0.0, 0.1);
  weights.add_normal("embeddings.token_type_embeddings.weight", {2, kHidden}, 0.0, 0.1);
  weights.add_norm("embeddings.LayerNorm");
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const std::string prefix = "encoder.layer." + std::to_string(layer) + ".";
    for (const char* part : {"query", "key", "value"}) {
      weights.add_linear(prefix + "attention.self." + part, kHidden, kHidden);
    }
    weights.add_linear(prefix + "attention.output.dense", kHidden, kHidden);
    weights.add_norm(prefix + "attention.output.LayerNorm");
    weights.add_linear(prefix + "intermediate.dense", kIntermediate, kHidden);
    weights.add_linear(prefix + "output.dense", kHidden, kIntermediate);
    weights.add_norm(prefix + "output.LayerNorm");
  }
  weights.add_linear("pooler.dense", kHidden, kHidden);
  weights.write(path);
}

}  // namespace

std::filesystem::path write_tiny_bert_folder(const std::filesystem::path& folder, uint64_t seed) {
  const std::vector<std::string> vocabulary = make_vocabulary();
  std::string vocabulary_text;
  for (const std::string& token : vocabulary) vocabulary_text += token + "\n";
  test::write_file(folder / "vocab.txt", vocabulary_text);

  const auto write_json = [&folder](const char* name, const Json& value) {
    test::write_file(folder / name, dump_json(value, 2) + "\n");
  };
  write_json("config.json", {{"architectures", Json::array({"BertModel"})},
                             {"model_type", "bert"},
                             {"hidden_act", "gelu"},
                             {"hidden_size", kHidden},
                             {"intermediate_size", kIntermediate},
                             {"layer_norm_eps", 1e-12},
                             {"max_position_embeddings", kPositions},
                             {"num_attention_heads", 4},
                             {"num_hidden_layers", kLayers},
                             {"pad_token_id", 0},
                             {"position_embedding_type", "absolute"},
                             {"type_vocab_size", 2},
                             {"vocab_size", vocabulary.size()}});
  write_json("tokenizer_config.json", {{"do_lower_case", true},
                                       {"tokenizer_class", "BertTokenizer"},
                                       {"model_max_length", kPositions},
                                       {"cls_token", "[CLS]"},
                                       {"sep_token", "[SEP]"},
                                       {"pad_token", "[PAD]"},
                                       {"unk_token", "[UNK]"},
                                       {"mask_token", "[MASK]"}});
  write_json("sentence_bert_config.json", {{"max_seq_length", 64}, {"do_lower_case", false}});
  write_json("modules.json", Json::array({{{"idx", 0},
                                           {"name", "0"},
                                           {"path", ""},
                                           {"type", "sentence_transformers.models.Transformer"}},
                                          {{"idx", 1},
                                           {"name", "1"},
                                           {"path", "1_Pooling"},
                                           {"type", "sentence_transformers.models.Pooling"}},
                                          {{"idx", 2},
                                           {"name", "2"},
                                           {"path", "2_Normalize"},
                                           {"type", "sentence_transformers.models.Normalize"}}}));
  write_json("1_Pooling/config.json", {{"word_embedding_dimension", kHidden},
                                       {"pooling_mode_cls_token", false},
                                       {"pooling_mode_mean_tokens", true},
                                       {"pooling_mode_max_tokens", false},
                                       {"pooling_mode_mean_sqrt_len_tokens", false}});
  write_weights(folder / "model.safetensors", static_cast<int64_t>(vocabulary.size()), seed);
  return folder;
}

}  // namespace quarry
