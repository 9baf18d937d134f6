// Contrastive training of a query encoder with in-batch and hard negatives, as of DPR (Karpukhin
// et al. 2020, arXiv:2004.04906). The index and the passage encoder stay as they are.
#include <algorithm>
#include <set>

#include "data/core/error.h"
#include "finetune/data/text_match.h"
#include "finetune/recipe.h"
#include "finetune/recipes/contrastive_trainer.h"
#include "finetune/recipes/encoder_shape.h"
#include "finetune/recipes/mined_stream.h"
#include "finetune/recipes/query_adapter.h"
#include "finetune/recipes/recipe_state.h"
#include "finetune/recipes/row_recipe.h"
#include "finetune/run_inputs.h"
#include "retriever/vector_sync.h"

namespace quarry {
namespace {

// Each of questions[begin, end) against its own passages and the right ones of the others, but for
// those that answer it too or are of its own context. Borrows their vectors.
std::vector<ContrastiveExample> contrast(const std::vector<MinedQuestion>& questions, size_t begin,
                                         size_t end, const Embedder& embedder) {
  const auto dim = static_cast<size_t>(embedder.dim());
  std::vector<ContrastiveExample> examples;
  for (size_t i = begin; i < end; ++i) {
    const MinedQuestion& own = questions[i];
    ContrastiveExample example;
    example.id = own.id;
    example.question = own.question;
    example.num_tokens = static_cast<int64_t>(
        embedder.tokenizer().encode(own.question, Tokenizer::SpecialTokens::kAdd).size());
    std::set<int64_t> seen;
    for (size_t z = 0; z < own.passages.size(); ++z) {
      seen.insert(own.passages[z].id);
      example.passages.push_back(own.vectors.data() + z * dim);
    }
    for (size_t other = begin; other < end; ++other) {
      const MinedPassage& right = questions[other].passages.front();
      if (holds_any(right.key, own.answers) || is_of_context(right, own) ||
          !seen.insert(right.id).second) {
        continue;
      }
      example.passages.push_back(questions[other].vectors.data());
    }
    examples.push_back(std::move(example));
  }
  return examples;
}

class ContrastiveRecipe final : public RowRecipe<MinedStream> {
 public:
  explicit ContrastiveRecipe(const DataInputs& inputs) : inputs_(inputs) {
    const FinetuneConfig& config = inputs.config;
    const std::filesystem::path index = config.passages.index;
    store_ = PassageStore::open(index / kStoreFileName, PassageStore::Mode::kReadOnly);
    query_ = load_query_encoder(config, embedder_model(store_->manifest()), true,
                                compute_precision(config));
    retriever_ = Retriever::open(index, query_.embedder);
    stream_ = make_stream(inputs.train_set);
    optimizer_ = make_optimizer(config.training.optimizer, config.adamw_options());
    trained_ = make_trained_query_adapter(config, query_.adapter);
    trainer_ = std::make_unique<ContrastiveTrainer>(*query_.embedder, *trained_, *optimizer_,
                                                    trainer_options(inputs),
                                                    config.contrastive.temperature);
  }

  bool take_batch(const std::function<bool()>& may_take) override {
    before_ = stream_->state();
    questions_ = take_mined(*stream_, inputs_.batch_size, may_take);
    batch_ = contrast(questions_, 0, questions_.size(), *query_.embedder);
    for (const ContrastiveExample& example : batch_) {
      stream_->count_tokens(example.id, example.num_tokens);
    }
    return !batch_.empty();
  }
  StepResult learn_batch(double learning_rate) override {
    return step_or_put_back(*trainer_, batch_, learning_rate, *stream_, before_);
  }
  std::vector<std::string> examples(size_t most) const override {
    std::vector<std::string> texts;
    for (size_t i = 0; i < std::min(most, batch_.size()); ++i) {
      texts.push_back(concat(describe(questions_[i]), "\nand ",
                             batch_[i].passages.size() - questions_[i].passages.size(),
                             " of the batch's other questions"));
    }
    return texts;
  }
  const std::string& base_name() const override { return query_.embedder->name(); }

  std::optional<double> evaluate(std::vector<std::pair<std::string, double>>& figures) override {
    if (!eval_set_) eval_set_ = evaluation_set(inputs_);
    if (!eval_set_) return std::nullopt;
    // With the passages that the query encoder finds now, in batches as large as a step's.
    const auto stream = make_stream(*eval_set_);
    const std::vector<MinedQuestion> questions = stream->next(stream->num_rows());
    std::vector<ContrastiveExample> examples;
    for (size_t begin = 0; begin < questions.size();) {
      const size_t end =
          std::min(questions.size(), begin + static_cast<size_t>(inputs_.batch_size));
      for (ContrastiveExample& example : contrast(questions, begin, end, *query_.embedder)) {
        examples.push_back(std::move(example));
      }
      begin = end;
    }
    if (examples.empty()) return std::nullopt;
    const RankingMeasure measure = trainer_->evaluate(examples);
    figures = measure.figures();
    return measure.mean_loss();
  }

  int64_t steps_taken() const override { return trainer_->steps_taken(); }
  TrainingShape shape() const override {
    std::vector<int64_t> tokens;
    for (const ContrastiveExample& example : batch_) tokens.push_back(example.num_tokens);
    return encoder_shape(inputs_.config, query_.path, *query_.adapter.adapter, tokens);
  }
  std::vector<std::string> notices() const override { return {}; }

  SavedAdapters save_adapters(const std::filesystem::path& folder,
                              const ModelCard& card) const override {
    SavedAdapters saved;
    saved.query_encoder = folder.string() + "-query-encoder";
    const ContrastiveOptions& options = inputs_.config.contrastive;
    save_query_adapter(saved.query_encoder, inputs_.config, *query_.embedder, query_.adapter, card,
                       {{"batch_size", std::to_string(inputs_.batch_size)},
                        {"hard_negatives", std::to_string(options.hard_negatives)},
                        {"temperature", concat(options.temperature)}});
    return saved;
  }
  void save(Checkpoint& checkpoint) override {
    save_state(*trainer_, query_.adapter.adapter.get(), *optimizer_, *stream_, checkpoint);
  }
  void restore(const Checkpoint& checkpoint, const std::string& source) override {
    restore_state(checkpoint, source, *trainer_, query_.adapter.adapter.get(), *optimizer_,
                  *stream_);
  }

 private:
  std::unique_ptr<MinedStream> make_stream(const TrainingSet& set) const {
    return std::make_unique<MinedStream>(set, *retriever_, *store_, *query_.embedder,
                                         mined_stream_options(inputs_.config));
  }

  DataInputs inputs_;
  QueryEncoder query_;
  std::unique_ptr<PassageStore> store_;
  std::shared_ptr<Retriever> retriever_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<TrainedAdapter> trained_;
  std::unique_ptr<ContrastiveTrainer> trainer_;
  std::vector<MinedQuestion> questions_;   // of it
  std::vector<ContrastiveExample> batch_;  // borrows the vectors of these
  std::optional<TrainingSet> eval_set_;    // once it has been read
};

}  // namespace

std::unique_ptr<Recipe> make_contrastive_recipe(const DataInputs& inputs) {
  return std::make_unique<ContrastiveRecipe>(inputs);
}

}  // namespace quarry
