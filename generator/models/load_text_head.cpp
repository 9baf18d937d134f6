#include <algorithm>
#include <cmath>

#include "data/core/error.h"
#include "data/core/json.h"
#include "generator/decode/random.h"
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

std::string model_class(const Json& config, const std::string& source) {
  const std::vector<std::string> classes =
      ConfigValues(config, source).texts_or_empty("architectures");
  return classes.empty() ? "" : classes.front();
}

bool is_of_kind(const std::string& name, const TextEncoderFamily& family, const HeadKind& kind) {
  return family.class_prefix != nullptr &&
         name == std::string(family.class_prefix) + kind.class_suffix;
}

// architectures[0] of config.json is checked to be of the kind, and of the family.
void check_class(const Json& config, const std::string& source, const TextEncoderFamily& family,
                 const HeadKind& kind) {
  std::string known;
  for (const TextEncoderFamily& candidate : text_encoder_families()) {
    if (candidate.class_prefix == nullptr) continue;
    known += (known.empty() ? "" : ", ") + std::string(candidate.class_prefix) + kind.class_suffix;
  }
  const std::string found = model_class(config, source);
  QUARRY_CHECK(is_of_kind(found, family, kind), ErrorCode::kInvalidArgument, source,
               ": model class '", found, "' is no ", kind.name, " of its family (known: ", known,
               ")");
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

std::unique_ptr<nn::Linear> make_linear(const std::string& path, const TensorView& weight,
                                        const TensorView& bias, kernels::Precision precision) {
  nn::Projection projection;
  projection.path = path;
  projection.weight = &weight;
  projection.bias = &bias;
  return std::make_unique<nn::Linear>(std::vector<nn::Projection>{projection}, precision);
}

// `stored`: its name in the file.
std::unique_ptr<nn::Linear> load_linear(const TensorSource& tensors, const std::string& path,
                                        const std::string& stored, int64_t in, int64_t out,
                                        kernels::Precision precision) {
  return make_linear(path, nn::get_checked(tensors, stored + ".weight", {out, in}),
                     nn::get_checked(tensors, stored + ".bias", {out}), precision);
}

TensorView view_of(const std::vector<float>& values, const std::vector<int64_t>& shape) {
  TensorView view;
  view.shape = shape;
  view.data = reinterpret_cast<const uint8_t*>(values.data());
  view.bytes = static_cast<int64_t>(values.size() * sizeof(float));
  return view;
}

// Weights from N(0, 0.02^2) (Box and Muller 1958), biases 0.
std::unique_ptr<nn::Linear> random_linear(const std::string& path, int64_t in, int64_t out,
                                          kernels::Precision precision, SplitMix64& random) {
  std::vector<float> weight(static_cast<size_t>(out * in));
  for (float& value : weight) {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - random.next_unit()));
    value = static_cast<float>(0.02 * radius * std::cos(2.0 * M_PI * random.next_unit()));
  }
  const std::vector<float> bias(static_cast<size_t>(out));
  return make_linear(path, view_of(weight, {out, in}), view_of(bias, {out}), precision);
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
    head.dense = load_linear(tensors, family.sequence_dense, family.sequence_dense, hidden, hidden,
                             precision);
  }
  const std::string output = is_sequence ? family.sequence_output : kind.output;
  const TensorView& weight = tensors.get(output + ".weight");
  const int64_t width =
      kind.wanted_width > 0 || weight.shape.empty() ? kind.wanted_width : weight.shape.front();
  head.output = load_linear(tensors, output, output, hidden, width, precision);
  // Question answering has no labels of its own, and the id2label of any configuration.
  head.labels = kind.wanted_width > 0 ? std::vector<std::string>{"start", "end"}
                                      : read_labels(*source.config, source.description, width);
}

// A pooler is read, which an encoder may save without the prefix that it has below a head; all else
// is drawn at random.
void make_layers(const TextEncoderSource& source, const TextEncoderFamily& family,
                 const NewHeadOptions& options, kernels::Precision precision, EncoderHead& head) {
  const int64_t hidden = head.stack->config().hidden_size;
  SplitMix64 random(options.seed);
  const std::string dense = family.sequence_dense;
  if (source.has_pooler) {
    const std::string stored =
        head.stack->config().root + dense.substr(std::string(family.encoder).size());
    head.dense = load_linear(*source.tensors, dense, stored, hidden, hidden, precision);
  } else {
    head.dense = random_linear(dense, hidden, hidden, precision, random);
  }
  head.output = random_linear(family.sequence_output, hidden,
                              static_cast<int64_t>(options.labels.size()), precision, random);
  head.labels = options.labels;
}

// What adapters of a sequence classifier can change.
void add_slots(EncoderHead& head) {
  head.linear_slots = head.stack->linear_slots();
  for (const nn::Linear* layer : {head.dense.get(), head.output.get()}) {
    const int64_t out = layer->out_features();
    head.tensor_slots.push_back({layer->path(0) + ".weight",
                                 {out, layer->in_features()},
                                 CausalLm::TensorSlot::Use::kLinear});
    head.tensor_slots.push_back(
        {layer->path(0) + ".bias", {out}, CausalLm::TensorSlot::Use::kVector});
  }
}

template <typename Model>
LoadedHead<Model> load(const std::string& model, const HeadKind& kind, kernels::Precision precision,
                       const NewHeadOptions& new_head = {}) {
  const ModelLocation location = resolve_model(model);
  QUARRY_CHECK(location.kind == ModelLocation::Kind::kHuggingFaceFolder,
               ErrorCode::kInvalidArgument, location.path.string(), ": a ", kind.name,
               " is read from a Hugging Face folder, not from a GGUF file");
  const std::filesystem::path config_path = location.path / "config.json";
  const Json config = read_json_file(config_path);
  const TextEncoderFamily& family = find_text_encoder_family(config, config_path.string());
  LoadedHead<Model> loaded;
  loaded.head_is_new = !new_head.labels.empty() && family.class_prefix != nullptr &&
                       !is_of_kind(model_class(config, config_path.string()), family, kind);
  if (!loaded.head_is_new) check_class(config, config_path.string(), family, kind);
  const std::unique_ptr<SafetensorsFile> tensors = SafetensorsFile::open(location.path);
  TextEncoderSource source;
  source.tensors = tensors.get();
  source.config = &config;
  source.description = config_path.string();
  source.path = family.encoder;
  source.has_pooler =
      kind.output == nullptr && std::string(family.sequence_dense).find(family.encoder) == 0;

  auto head = std::make_unique<EncoderHead>();
  head->description = config_path.string();
  head->tokenizer = load_tokenizer(location.path);
  head->stack = family.make_stack(source, precision);
  check_vocabulary(*head->tokenizer, head->stack->config(), head->description);
  head->max_tokens = head->stack->config().max_tokens();
  const int64_t limit = read_max_tokens(location.path);
  if (limit > 0) head->max_tokens = std::min(head->max_tokens, limit);
  check_template(*head);
  if (loaded.head_is_new) {
    make_layers(source, family, new_head, precision, *head);
  } else {
    load_layers(source, family, kind, precision, *head);
  }
  if (kind.output == nullptr) add_slots(*head);

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

LoadedHead<SequenceClassifier> load_sequence_classifier(const std::string& model,
                                                        kernels::Precision precision,
                                                        const NewHeadOptions& new_head) {
  return load<SequenceClassifier>(model, kSequence, precision, new_head);
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
