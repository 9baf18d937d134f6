#include <algorithm>

#include "data/core/error.h"
#include "data/core/json.h"
#include "generator/models/encoder_folder.h"
#include "generator/models/encoder_head.h"
#include "generator/models/families.h"
#include "generator/models/sentence_encoder.h"
#include "generator/models/text_heads.h"
#include "generator/nn/load.h"
#include "generator/weights/model_catalog.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {
namespace {

struct HeadKind {
  const char* class_suffix;
  const char* name;          // for messages
  const char* output;        // module of the last Linear; null: the family says
  int64_t wanted_width = 0;  // of it; 0: as many as there are labels
};
constexpr HeadKind kSequence = {"ForSequenceClassification", "sequence classifier", nullptr};
constexpr HeadKind kTokens = {"ForTokenClassification", "token classifier", "classifier"};
constexpr HeadKind kQuestions = {"ForQuestionAnswering", "question answerer", "qa_outputs", 2};

// architectures[0] of config.json is checked to be of the kind, and of the family.
void check_class(const Json& config, const std::string& source, const TextEncoderFamily& family,
                 const HeadKind& kind) {
  std::string known;
  for (const TextEncoderFamily& candidate : text_encoder_families()) {
    if (candidate.class_prefix == nullptr) continue;
    known += (known.empty() ? "" : ", ") + std::string(candidate.class_prefix) + kind.class_suffix;
  }
  const std::vector<std::string> classes =
      ConfigValues(config, source).texts_or_empty("architectures");
  const std::string found = classes.empty() ? "" : classes.front();
  QUARRY_CHECK(family.class_prefix != nullptr &&
                   found == std::string(family.class_prefix) + kind.class_suffix,
               ErrorCode::kInvalidArgument, source, ": model class '", found, "' is no ", kind.name,
               " of its family (known: ", known, ")");
}

// `width`: of the head's output.
std::vector<std::string> read_labels(const Json& config, const std::string& source, int64_t width) {
  std::vector<std::string> labels;
  for (int64_t i = 0; i < width; ++i) labels.push_back(concat("LABEL_", i));
  const ConfigValues values(config, source);
  if (!values.has("id2label")) return labels;
  const ConfigValues names = values.object("id2label");
  const auto count = static_cast<int64_t>(config.at("id2label").size());
  QUARRY_CHECK(count == width, ErrorCode::kCorruptData, source, ": id2label names ", count,
               " labels, the head has ", width);
  for (int64_t i = 0; i < width; ++i) {
    const std::string key = std::to_string(i);
    QUARRY_CHECK(names.has(key.c_str()), ErrorCode::kCorruptData, source,
                 ": id2label has no label ", i, ", wanted 0 to ", width - 1);
    labels[static_cast<size_t>(i)] = names.text_or(key.c_str(), "");
  }
  return labels;
}

std::unique_ptr<nn::Linear> load_linear(const TensorSource& tensors, const std::string& path,
                                        int64_t in, int64_t out, kernels::Precision precision) {
  nn::Projection projection;
  projection.path = path;
  projection.weight = &nn::get_checked(tensors, path + ".weight", {out, in});
  projection.bias = &nn::get_checked(tensors, path + ".bias", {out});
  return std::make_unique<nn::Linear>(std::vector<nn::Projection>{projection}, precision);
}

// A template that is longer than the input, or names tokens or types that the model lacks.
void check_template(const EncoderHead& head) {
  const PairTemplate* around = head.tokenizer->pair_template();
  if (around == nullptr) return;
  QUARRY_CHECK(head.max_tokens > num_template_tokens(*around), ErrorCode::kCorruptData,
               head.description, ": the model reads ", head.max_tokens,
               " tokens, its tokenizer's template for two texts has ",
               num_template_tokens(*around));
  const EncoderInput input = join_pair(*around, {0}, {0});
  const BertConfig& config = head.stack->config();
  for (size_t i = 0; i < input.ids.size(); ++i) {
    const bool has_type = config.num_token_types == 1 ||
                          (input.types[i] >= 0 && input.types[i] < config.num_token_types);
    QUARRY_CHECK(input.ids[i] >= 0 && input.ids[i] < config.vocab_size && has_type,
                 ErrorCode::kCorruptData, head.description,
                 ": the template for two texts has token ", input.ids[i], " of type ",
                 input.types[i], ", the model ", config.vocab_size, " tokens and ",
                 config.num_token_types, " types");
  }
}

void load_layers(const TextEncoderSource& source, const TextEncoderFamily& family,
                 const HeadKind& kind, kernels::Precision precision, EncoderHead& head) {
  const TensorSource& tensors = *source.tensors;
  const int64_t hidden = head.stack->config().hidden_size;
  const bool is_sequence = kind.output == nullptr;
  if (is_sequence) {
    head.dense = load_linear(tensors, family.sequence_dense, hidden, hidden, precision);
  }
  const std::string output = is_sequence ? family.sequence_output : kind.output;
  const TensorView& weight = tensors.get(output + ".weight");
  const int64_t width =
      kind.wanted_width > 0 || weight.shape.empty() ? kind.wanted_width : weight.shape.front();
  head.output = load_linear(tensors, output, hidden, width, precision);
  // Question answering has no labels of its own, and the id2label of any configuration.
  head.labels = kind.wanted_width > 0 ? std::vector<std::string>{"start", "end"}
                                      : read_labels(*source.config, source.description, width);
}

template <typename Model>
LoadedHead<Model> load(const std::string& model, const HeadKind& kind,
                       kernels::Precision precision) {
  const ModelLocation location = resolve_model(model);
  QUARRY_CHECK(location.kind == ModelLocation::Kind::kHuggingFaceFolder,
               ErrorCode::kInvalidArgument, location.path.string(), ": a ", kind.name,
               " is read from a Hugging Face folder, not from a GGUF file");
  const std::filesystem::path config_path = location.path / "config.json";
  const Json config = read_json_file(config_path);
  const TextEncoderFamily& family = find_text_encoder_family(config, config_path.string());
  check_class(config, config_path.string(), family, kind);
  const std::unique_ptr<SafetensorsFile> tensors = SafetensorsFile::open(location.path);
  TextEncoderSource source;
  source.tensors = tensors.get();
  source.config = &config;
  source.description = config_path.string();

  auto head = std::make_unique<EncoderHead>();
  head->description = config_path.string();
  head->tokenizer = load_tokenizer(location.path);
  head->stack = family.make_stack(source, precision);
  check_vocabulary(*head->tokenizer, head->stack->config(), head->description);
  head->max_tokens = head->stack->config().max_tokens();
  const int64_t limit = read_max_tokens(location.path);
  if (limit > 0) head->max_tokens = std::min(head->max_tokens, limit);
  check_template(*head);
  load_layers(source, family, kind, precision, *head);

  LoadedHead<Model> loaded;
  loaded.name = location.name;
  loaded.path = location.path.string();
  loaded.model = std::make_unique<Model>(std::move(head));
  loaded.content_hash = model_content_hash(location);
  return loaded;
}

}  // namespace

LoadedHead<SequenceClassifier> load_sequence_classifier(const std::string& model,
                                                        kernels::Precision precision) {
  return load<SequenceClassifier>(model, kSequence, precision);
}

LoadedHead<TokenClassifier> load_token_classifier(const std::string& model,
                                                  kernels::Precision precision) {
  return load<TokenClassifier>(model, kTokens, precision);
}

LoadedHead<QuestionAnswerer> load_question_answerer(const std::string& model,
                                                    kernels::Precision precision) {
  return load<QuestionAnswerer>(model, kQuestions, precision);
}

}  // namespace quarry
