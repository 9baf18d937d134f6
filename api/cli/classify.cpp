#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <optional>

#include "api/cli/command.h"
#include "api/cli/options.h"
#include "data/core/error.h"
#include "finetune/data/row_fields.h"
#include "generator/adapters/adapter_catalog.h"
#include "generator/models/adapted_classifier.h"

namespace quarry::cli {
namespace {

constexpr size_t kTextsAtOnce = 256;

struct ClassifyArguments {
  std::string model;
  std::string adapter;
  std::string precision = "fast";
  std::vector<std::string> texts;
  std::string second;
  std::string input;
  bool as_json = false;
};

struct Row {
  std::string id;
  TextInput input;
  std::optional<std::string> label;  // what it should say
};

AdaptedClassifier load_classifier(const ClassifyArguments& arguments) {
  AdaptedClassifier loaded = load_adapted_classifier(
      arguments.model,
      arguments.adapter.empty() ? std::filesystem::path() : resolve_adapter(arguments.adapter),
      parse_precision(arguments.precision));
  QUARRY_CHECK(loaded.base.model->labels().size() >= 2, ErrorCode::kInvalidArgument,
               loaded.base.name,
               ": its head has one label, wanted two or more (one that scores "
               "passages is for --rerank)");
  return loaded;
}

std::vector<Row> read_rows(const ClassifyArguments& arguments) {
  std::vector<Row> rows;
  for (const std::string& text : arguments.texts) {
    Row row{text, {text, std::nullopt}, std::nullopt};
    if (!arguments.second.empty()) row.input.second = arguments.second;
    rows.push_back(std::move(row));
  }
  if (arguments.input.empty()) return rows;
  for_each_row(arguments.input, [&](const Json& json, const std::string& where) {
    Row row;
    row.id = row_id(json, where);
    const std::string text = field_or(json, "", {"text", "sentence", "sentence1", "premise"});
    row.input.text = required_text(json, text.c_str(), where, "the text to classify");
    if (const char* second = find_field(json, {"sentence2", "hypothesis"})) {
      row.input.second = required_text(json, second, where, "the second text");
    }
    if (find_field(json, {"label"}) != nullptr) {
      const Json& label = json.at("label");
      row.label = label.is_string() ? label.get<std::string>() : label.dump();
    }
    rows.push_back(std::move(row));
  });
  return rows;
}

std::vector<double> softmax(const float* logits, size_t count) {
  const double largest = double{*std::max_element(logits, logits + count)};
  std::vector<double> values;
  double sum = 0.0;
  for (size_t i = 0; i < count; ++i) {
    values.push_back(std::exp(double{logits[i]} - largest));
    sum += values.back();
  }
  for (double& value : values) value /= sum;
  return values;
}

// By its name, or as the number of a column of the logits, as in training.
bool says_label(const std::vector<std::string>& labels, size_t best, const std::string& wanted) {
  const bool is_name = std::find(labels.begin(), labels.end(), wanted) != labels.end();
  return is_name ? labels[best] == wanted : std::to_string(best) == wanted;
}

class Report {
 public:
  Report(const std::vector<std::string>& labels, bool as_json)
      : labels_(labels), as_json_(as_json) {}

  void add(const Row& row, const std::vector<double>& probabilities) {
    const auto best = static_cast<size_t>(
        std::max_element(probabilities.begin(), probabilities.end()) - probabilities.begin());
    if (row.label) {
      ++labelled_;
      if (says_label(labels_, best, *row.label)) ++right_;
    }
    if (!as_json_) return print(row, best, probabilities);
    OrderedJson of_labels;
    for (size_t i = 0; i < labels_.size(); ++i) of_labels[labels_[i]] = probabilities[i];
    results_.push_back({{"id", row.id}, {"label", labels_[best]}, {"probabilities", of_labels}});
  }
  void finish(const AdaptedClassifier& classifier) const {
    const double accuracy = static_cast<double>(right_) / static_cast<double>(labelled_);
    if (!as_json_) {
      if (labelled_ > 0) std::cout << "accuracy " << accuracy << " of " << labelled_ << "\n";
      return;
    }
    OrderedJson json;
    json["model"] = classifier.base.name;
    json["results"] = results_;
    if (labelled_ > 0) json["accuracy"] = accuracy;
    print_json(json);
  }

 private:
  void print(const Row& row, size_t best, const std::vector<double>& probabilities) const {
    std::cout << labels_[best];
    for (size_t i = 0; i < labels_.size(); ++i) {
      char number[32];
      std::snprintf(number, sizeof(number), "%.4f", probabilities[i]);
      std::cout << (i == 0 ? "\t" : " ") << labels_[i] << "=" << number;
    }
    std::cout << "\t" << row.id << "\n";
  }

  const std::vector<std::string>& labels_;
  bool as_json_;
  OrderedJson results_ = OrderedJson::array();
  int64_t labelled_ = 0;
  int64_t right_ = 0;
};

void classify(const ClassifyArguments& arguments, CommandContext& context) {
  QUARRY_CHECK(arguments.texts.empty() != arguments.input.empty(), ErrorCode::kInvalidArgument,
               "nothing to classify: wanted TEXT or --input FILE, one of them");
  QUARRY_CHECK(arguments.second.empty() || arguments.texts.size() == 1, ErrorCode::kInvalidArgument,
               "--second goes with one TEXT, there are ", arguments.texts.size());
  const std::vector<Row> rows = read_rows(arguments);
  const AdaptedClassifier classifier = load_classifier(arguments);
  const SequenceClassifier& model = *classifier.base.model;
  const size_t count = model.labels().size();
  Report report(model.labels(), arguments.as_json);
  for (size_t first = 0; first < rows.size(); first += kTextsAtOnce) {
    context.cancel->check("classification");
    std::vector<TextInput> texts;
    for (size_t i = first; i < std::min(first + kTextsAtOnce, rows.size()); ++i) {
      texts.push_back(rows[i].input);
    }
    const std::vector<float> logits = model.logits(model.encode(texts), classifier.adapter.get());
    for (size_t i = 0; i < texts.size(); ++i) {
      report.add(rows[first + i], softmax(logits.data() + i * count, count));
    }
  }
  report.finish(classifier);
}

}  // namespace

void add_classify_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<ClassifyArguments>();
  CLI::App* command =
      app.add_subcommand("classify", "Label texts with an encoder and a tuned classifier");
  command->add_option("TEXT", arguments->texts, "Texts to label");
  command
      ->add_option("-m,--model", arguments->model,
                   "Encoder of the BERT family: a short name or a Hugging Face folder")
      ->required();
  command->add_option("--adapter", arguments->adapter,
                      "What `quarry finetune --recipe classification` left, or any PEFT folder of "
                      "task type SEQ_CLS (default: the model's own head)");
  command->add_option("--second", arguments->second, "Second text of a pair, with one TEXT");
  command->add_option(
      "--input", arguments->input,
      "JSON Lines: {\"text\"} or {\"sentence1\", \"sentence2\"}; \"id\" is shown, and of "
      "\"label\" the accuracy");
  add_precision_flag(*command, arguments->precision);
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->footer(
      "Prints the label, the probability of each, and the text or the row's id, separated by "
      "tabs.\n"
      "Examples\n"
      "  quarry classify --model my-bert --adapter my-run/last \"what a film\"\n"
      "  quarry classify --model my-bert --adapter my-run/last --input rows.jsonl --json");
  command->callback([arguments, &context] { classify(*arguments, context); });
}

}  // namespace quarry::cli
