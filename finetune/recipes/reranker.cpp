// A cross-encoder learns to put the passage that answers before those that were found beside it
// (Nogueira & Cho 2019, arXiv:1901.04085): LoRA and a head with one logit, as PEFT's task type
// SEQ_CLS. The index and its embedder stay as they are.
#include "retriever/reranker.h"

#include <algorithm>

#include "data/core/error.h"
#include "finetune/recipe.h"
#include "finetune/recipes/classifier_adapter.h"
#include "finetune/recipes/mined_stream.h"
#include "finetune/recipes/query_adapter.h"
#include "finetune/recipes/recipe_state.h"
#include "finetune/recipes/reranker_trainer.h"
#include "finetune/recipes/row_recipe.h"
#include "finetune/run_inputs.h"
#include "retriever/vector_sync.h"

namespace quarry {
namespace {

LoadedHead<SequenceClassifier> load_cross_encoder(const FinetuneConfig& config) {
  NewHeadOptions head;
  head.labels = {"LABEL_0"};
  head.seed = config.training.seed;
  auto loaded = load_sequence_classifier(config.model.path, compute_precision(config), head);
  check_is_reranker(loaded);
  return loaded;
}

class RerankerRecipe final : public RowRecipe<MinedStream> {
 public:
  explicit RerankerRecipe(const DataInputs& inputs)
      : inputs_(inputs),
        base_(load_cross_encoder(inputs.config)),
        trained_(make_classifier_adapter(inputs.config, base_)) {
    const FinetuneConfig& config = inputs.config;
    const std::filesystem::path index = config.passages.index;
    store_ = PassageStore::open(index / kStoreFileName, PassageStore::Mode::kReadOnly);
    embedder_ = load_query_encoder(config, embedder_model(store_->manifest()), false).embedder;
    retriever_ = Retriever::open(index, embedder_);
    stream_ = make_stream(inputs.train_set);
    optimizer_ = make_optimizer(config.training.optimizer, config.adamw_options());
    trainer_ = std::make_unique<RerankerTrainer>(*base_.model, *trained_.config, *trained_.adapter,
                                                 *optimizer_, trainer_options(inputs));
  }

  bool take_batch(const std::function<bool()>& may_take) override {
    before_ = stream_->state();
    questions_ = take_mined(*stream_, inputs_.batch_size, may_take);
    batch_ = encode(questions_);
    for (const InputGroup& question : batch_) {
      stream_->count_tokens(question.id, question.num_tokens());
    }
    return !batch_.empty();
  }
  StepResult learn_batch(double learning_rate) override {
    return step_or_put_back(*trainer_, batch_, learning_rate, *stream_, before_);
  }
  std::vector<std::string> examples(size_t most) const override {
    std::vector<std::string> texts;
    for (size_t i = 0; i < std::min(most, questions_.size()); ++i) {
      texts.push_back(describe(questions_[i]));
    }
    return texts;
  }
  const std::string& base_name() const override { return base_.name; }

  std::optional<double> evaluate(std::vector<std::pair<std::string, double>>& figures) override {
    if (!eval_questions_) {
      const std::optional<TrainingSet> set = evaluation_set(inputs_);
      eval_questions_.emplace();
      if (set) {
        const auto stream = make_stream(*set);
        eval_questions_ = encode(stream->next(stream->num_rows()));
      }
    }
    if (eval_questions_->empty()) return std::nullopt;
    const RankingMeasure measure = trainer_->evaluate(*eval_questions_);
    figures = measure.figures();
    return measure.mean_loss();
  }

  int64_t steps_taken() const override { return trainer_->steps_taken(); }
  TrainingShape shape() const override {
    std::vector<int64_t> tokens;
    for (const InputGroup& question : batch_) tokens.push_back(question.num_tokens());
    return classifier_shape(inputs_.config, base_, *trained_.adapter, tokens);
  }
  std::vector<std::string> notices() const override {
    if (!base_.head_is_new) return {};
    return {
        "The base has no classification head: one with a single logit is made, trained and "
        "kept in the adapter."};
  }

  SavedAdapters save_adapters(const std::filesystem::path& folder,
                              const ModelCard& given) const override {
    ModelCard card = given;
    card.title = "LoRA adapter and head of a reranker for " + base_.name;
    card.pipeline_tag = "text-ranking";
    card.tags = {"lora", "cross-encoder", "reranker"};
    card.hyperparameters.emplace_back("hard_negatives",
                                      std::to_string(inputs_.config.contrastive.hard_negatives));
    save_classifier_adapter(folder, base_, trained_, card);
    return {folder, {}};
  }
  void save(Checkpoint& checkpoint) override {
    save_state(*trainer_, trained_.adapter.get(), *optimizer_, *stream_, checkpoint);
  }
  void restore(const Checkpoint& checkpoint, const std::string& source) override {
    restore_state(checkpoint, source, *trainer_, trained_.adapter.get(), *optimizer_, *stream_);
  }

 private:
  std::unique_ptr<MinedStream> make_stream(const TrainingSet& set) const {
    MinedStreamOptions options = mined_stream_options(inputs_.config);
    options.wants_vectors = false;
    return std::make_unique<MinedStream>(set, *retriever_, *store_, *embedder_, options);
  }

  std::vector<InputGroup> encode(const std::vector<MinedQuestion>& questions) const {
    std::vector<InputGroup> groups;
    for (const MinedQuestion& question : questions) {
      std::vector<TextInput> pairs;
      for (const MinedPassage& passage : question.passages) {
        pairs.push_back({question.question, passage.text});
      }
      groups.push_back(
          {question.id, base_.model->encode(pairs, inputs_.config.training.max_seq_len)});
    }
    return groups;
  }

  DataInputs inputs_;
  LoadedHead<SequenceClassifier> base_;
  RunAdapter trained_;
  std::unique_ptr<PassageStore> store_;
  std::shared_ptr<const Embedder> embedder_;
  std::shared_ptr<Retriever> retriever_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<RerankerTrainer> trainer_;
  std::vector<MinedQuestion> questions_;
  std::vector<InputGroup> batch_;                          // of these
  std::optional<std::vector<InputGroup>> eval_questions_;  // once they have been read
};

}  // namespace

std::unique_ptr<Recipe> make_reranker_recipe(const DataInputs& inputs) {
  return std::make_unique<RerankerRecipe>(inputs);
}

}  // namespace quarry
