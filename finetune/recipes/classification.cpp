// Sequence classification by an encoder of the BERT family (Devlin et al. 2018, arXiv:1810.04805):
// LoRA on its Linears and the head trained whole, as PEFT's task type SEQ_CLS.
#include <algorithm>
#include <numeric>
#include <set>

#include "data/core/error.h"
#include "finetune/data/row_order.h"
#include "finetune/recipe.h"
#include "finetune/recipes/classifier_adapter.h"
#include "finetune/recipes/classifier_trainer.h"
#include "finetune/recipes/recipe_state.h"
#include "finetune/recipes/row_recipe.h"
#include "finetune/run_adapter.h"
#include "finetune/run_inputs.h"
#include "generator/nn/lora_save.h"

namespace quarry {
namespace {

bool is_whole_number(const std::string& text) {
  return !text.empty() && text.size() < 10 &&
         text.find_first_not_of("0123456789") == std::string::npos;
}

void check_labelled(const TrainingSet& set) {
  for (const TrainingRow& row : set.rows) {
    QUARRY_CHECK(row.kind == TrainingRow::Kind::kLabelled, ErrorCode::kInvalidArgument, row.where,
                 ": row ", row.id,
                 " has no label, which recipe classification learns, wanted text and label");
  }
}

// Of all rows, each once: numbers by size, names by letters.
std::vector<std::string> labels_of(const TrainingSet& set) {
  std::set<std::string> names;
  for (const TrainingRow& row : set.rows) names.insert(row.label);
  std::vector<std::string> labels(names.begin(), names.end());
  if (std::all_of(labels.begin(), labels.end(), is_whole_number)) {
    std::sort(labels.begin(), labels.end(),
              [](const auto& a, const auto& b) { return std::stol(a) < std::stol(b); });
  }
  return labels;
}

// By its name, or as the number of a column of the logits.
int64_t label_index(const TrainingRow& row, const std::vector<std::string>& labels) {
  const auto found = std::find(labels.begin(), labels.end(), row.label);
  if (found != labels.end()) return found - labels.begin();
  const auto count = static_cast<int64_t>(labels.size());
  if (is_whole_number(row.label) && std::stol(row.label) < count) return std::stol(row.label);
  std::string known;
  for (const std::string& label : labels) known += (known.empty() ? "" : ", ") + label;
  throw_error(ErrorCode::kInvalidArgument, row.where, ": label \"", row.label.substr(0, 100),
              "\" is none of the model's, wanted ", known.substr(0, 300), " or a number below ",
              count);
}

std::vector<LabelledInput> encode_rows(const TrainingSet& set, const SequenceClassifier& model,
                                       int64_t max_tokens) {
  check_labelled(set);
  std::vector<TextInput> texts;
  for (const TrainingRow& row : set.rows) texts.push_back({row.text, row.second});
  std::vector<EncoderInput> inputs = model.encode(texts, max_tokens);
  std::vector<LabelledInput> labelled;
  for (size_t i = 0; i < inputs.size(); ++i) {
    labelled.push_back(
        {set.rows[i].id, std::move(inputs[i]), label_index(set.rows[i], model.labels())});
  }
  return labelled;
}

std::vector<size_t> all_of(const std::vector<LabelledInput>& rows) {
  std::vector<size_t> indexes(rows.size());
  std::iota(indexes.begin(), indexes.end(), size_t{0});
  return indexes;
}

LoadedHead<SequenceClassifier> load_classifier(const FinetuneConfig& config,
                                               const TrainingSet& train_set) {
  QUARRY_CHECK(!config.model.path.empty(), ErrorCode::kInvalidArgument,
               "recipe is classification and model.path empty, wanted an encoder of the BERT "
               "family, with or without a classification head");
  check_labelled(train_set);
  NewHeadOptions head;
  head.labels = labels_of(train_set);
  head.seed = config.training.seed;
  if (!config.adapter.start_from.empty()) {
    const auto notes = read_adapter_notes(config.adapter.start_from);
    if (notes && !notes->labels.empty()) head.labels = notes->labels;
  }
  auto loaded = load_sequence_classifier(config.model.path, compute_precision(config), head);
  QUARRY_CHECK(loaded.model->labels().size() >= 2, ErrorCode::kInvalidArgument, loaded.name,
               loaded.head_is_new ? ": the rows have " : ": the head has ",
               loaded.model->labels().size(), " label, wanted two or more");
  return loaded;
}

class ClassificationRecipe final : public Recipe {
 public:
  explicit ClassificationRecipe(const DataInputs& inputs)
      : inputs_(inputs),
        base_(load_classifier(inputs.config, inputs.train_set)),
        trained_(make_classifier_adapter(inputs.config, base_)),
        rows_(encode_rows(inputs.train_set, *base_.model, inputs.config.training.max_seq_len)),
        stream_(all_of(rows_), inputs.config.training.seed) {
    optimizer_ = make_optimizer(inputs.config.training.optimizer, inputs.config.adamw_options());
    trainer_ = std::make_unique<ClassifierTrainer>(
        *base_.model, *trained_.config, *trained_.adapter, *optimizer_, trainer_options(inputs));
    summary_.rows = static_cast<int64_t>(inputs.train_set.rows.size());
  }

  double sequences_per_epoch() const override { return static_cast<double>(rows_.size()); }
  int64_t epoch() const override { return stream_.state().epoch; }
  double epoch_progress() const override {
    return static_cast<double>(stream_.state().cursor) / static_cast<double>(rows_.size());
  }

  bool take_batch(const std::function<bool()>& may_take) override {
    before_ = stream_.state();
    batch_.clear();
    taken_.clear();
    while (static_cast<int64_t>(batch_.size()) < inputs_.batch_size && may_take()) {
      if (stream_.at_end()) stream_.start_epoch(stream_.state().epoch + 1);
      taken_.push_back(stream_.take(1).front());
      batch_.push_back(rows_[taken_.back()]);
      count(batch_.back());
    }
    return !batch_.empty();
  }
  StepResult learn_batch(double learning_rate) override {
    return step_or_put_back(*trainer_, batch_, learning_rate, stream_, before_);
  }

  std::vector<std::string> examples(size_t most) const override {
    std::vector<std::string> texts;
    for (size_t i = 0; i < std::min(most, batch_.size()); ++i) {
      const TrainingRow& row = inputs_.train_set.rows[taken_[i]];
      texts.push_back(concat(row.id, ", ", batch_[i].num_tokens(), " tokens: ", row.text,
                             row.second ? " | " + *row.second : "", " -> ",
                             base_.model->labels()[static_cast<size_t>(batch_[i].label)]));
    }
    return texts;
  }
  const std::string& base_name() const override { return base_.name; }

  std::optional<double> evaluate(std::vector<std::pair<std::string, double>>& figures) override {
    if (!eval_rows_) {
      const std::optional<TrainingSet> set = evaluation_set(inputs_);
      eval_rows_ = set ? encode_rows(*set, *base_.model, inputs_.config.training.max_seq_len)
                       : std::vector<LabelledInput>();
    }
    if (eval_rows_->empty()) return std::nullopt;
    const ClassifierTrainer::Evaluation evaluation = trainer_->evaluate(*eval_rows_);
    accuracy_ = evaluation.accuracy;
    figures.emplace_back("accuracy", evaluation.accuracy);
    return evaluation.loss;
  }

  int64_t steps_taken() const override { return trainer_->steps_taken(); }
  const DataSummary& summary() const override { return summary_; }

  TrainingShape shape() const override {
    std::vector<int64_t> tokens;
    for (const LabelledInput& input : batch_) tokens.push_back(input.num_tokens());
    return classifier_shape(inputs_.config, base_, *trained_.adapter, tokens);
  }
  std::vector<std::string> notices() const override {
    if (!base_.head_is_new) return {};
    return {concat("The base has no classification head: one for ", base_.model->labels().size(),
                   " labels is made, trained and kept in the adapter.")};
  }

  SavedAdapters save_adapters(const std::filesystem::path& folder,
                              const ModelCard& given) const override {
    ModelCard card = given;
    card.title = "LoRA adapter and classification head for " + base_.name;
    card.pipeline_tag = "text-classification";
    card.tags = {"lora", "text-classification"};
    std::string labels;
    for (const std::string& label : base_.model->labels()) {
      labels += (labels.empty() ? "" : ", ") + label;
    }
    card.description += " Labels: " + labels + ".";
    if (accuracy_) {
      card.description +=
          concat(" Accuracy on ", eval_rows_->size(), " evaluation rows: ", *accuracy_, ".");
    }
    save_classifier_adapter(folder, base_, trained_, card);
    return {folder, {}};
  }
  void save(Checkpoint& checkpoint) override {
    save_state(*trainer_, trained_.adapter.get(), *optimizer_, stream_, checkpoint);
  }
  void restore(const Checkpoint& checkpoint, const std::string& source) override {
    restore_state(checkpoint, source, *trainer_, trained_.adapter.get(), *optimizer_, stream_);
  }

 private:
  void count(const LabelledInput& row) {
    ++summary_.groups;
    ++summary_.sequences;
    ++summary_.targets;
    summary_.tokens += row.num_tokens();
    if (row.num_tokens() <= summary_.longest) return;
    summary_.longest = row.num_tokens();
    summary_.longest_id = row.id;
  }
  DataInputs inputs_;
  LoadedHead<SequenceClassifier> base_;
  RunAdapter trained_;
  std::vector<LabelledInput> rows_;
  RowOrder stream_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<ClassifierTrainer> trainer_;
  DataSummary summary_;
  DataState before_;  // of the batch that was taken
  std::vector<LabelledInput> batch_;
  std::vector<size_t> taken_;                            // its rows
  std::optional<std::vector<LabelledInput>> eval_rows_;  // once they have been read
  std::optional<double> accuracy_;                       // of the last evaluation
};

}  // namespace

std::unique_ptr<Recipe> make_classification_recipe(const DataInputs& inputs) {
  return std::make_unique<ClassificationRecipe>(inputs);
}

}  // namespace quarry
