// Supervised fine-tuning: the generator learns given answers, with the passages in the prompt.
#include <algorithm>
#include <iterator>

#include "data/core/error.h"
#include "data/store/passage_store.h"
#include "finetune/data/group_stream.h"
#include "finetune/recipe.h"
#include "finetune/recipes/recipe_state.h"
#include "finetune/recipes/row_recipe.h"
#include "finetune/run_adapter.h"
#include "finetune/run_inputs.h"
#include "retriever/embedder.h"
#include "retriever/index_embedder.h"
#include "retriever/search.h"

namespace quarry {
namespace {

class SftRecipe final : public Recipe {
 public:
  explicit SftRecipe(const RunInputs& inputs)
      : inputs_(inputs), trained_(make_adapter(inputs.config, inputs.base)) {
    open_index();
    stream_ = make_stream(inputs.train_set);
    optimizer_ = make_optimizer(inputs.config.training.optimizer, inputs.config.adamw_options());
    trainer_ = std::make_unique<Trainer>(*inputs.base.model, *trained_.config, *trained_.adapter,
                                         *optimizer_, trainer_options(inputs));
  }

  double sequences_per_epoch() const override {
    const double share = group_options(inputs_.config).unanswerable_share;
    return static_cast<double>(inputs_.train_set.rows.size()) / (1.0 - share);
  }
  int64_t epoch() const override { return stream_->epoch(); }
  double epoch_progress() const override {
    return static_cast<double>(stream_->state().cursor) /
           static_cast<double>(std::max<size_t>(1, inputs_.train_set.rows.size()));
  }

  // Whole groups until the batch is full.
  bool take_batch(const std::function<bool()>& may_take) override {
    before_ = stream_->state();
    batch_.clear();
    while (static_cast<int64_t>(batch_.size()) < inputs_.batch_size) {
      if (!may_take()) break;
      auto group = stream_->next_group();
      if (!group) {
        QUARRY_CHECK(before_.cursor > 0 || stream_->summary().sequences > 0,
                     ErrorCode::kInvalidArgument, "the training data gave no sequence:\n",
                     to_text(stream_->summary()));
        stream_->start_epoch(stream_->epoch() + 1);
        continue;
      }
      std::move(group->begin(), group->end(), std::back_inserter(batch_));
    }
    return !batch_.empty();
  }
  StepResult learn_batch(double learning_rate) override {
    return step_or_put_back(*trainer_, batch_, learning_rate, *stream_, before_);
  }
  std::vector<std::string> examples(size_t most) const override {
    return describe_first(batch_, most, *inputs_.base.tokenizer);
  }
  const std::string& base_name() const override { return inputs_.base.name; }

  std::optional<double> evaluate(std::vector<std::pair<std::string, double>>&) override {
    if (!eval_is_read_) {
      eval_is_read_ = true;
      const std::optional<TrainingSet> set = evaluation_set(inputs_);
      if (!set) return std::nullopt;
      const auto eval_stream = make_stream(*set);
      while (auto group = eval_stream->next_group()) {
        std::move(group->begin(), group->end(), std::back_inserter(eval_sequences_));
      }
    }
    if (eval_sequences_.empty()) return std::nullopt;
    return trainer_->evaluate(eval_sequences_);
  }

  int64_t steps_taken() const override { return trainer_->steps_taken(); }
  const DataSummary& summary() const override { return stream_->summary(); }
  TrainingShape shape() const override {
    return training_shape(inputs_.config, inputs_.base, trained_, batch_);
  }
  std::vector<std::string> notices() const override {
    return adapter_notices(inputs_.base, *trained_.adapter);
  }

  SavedAdapters save_adapters(const std::filesystem::path& folder,
                              const ModelCard& card) const override {
    save_generator_adapter(folder, inputs_, trained_, card);
    return {folder, {}};
  }
  void save(Checkpoint& checkpoint) override {
    save_state(*trainer_, trained_.adapter.get(), *optimizer_, *stream_, checkpoint);
  }
  void restore(const Checkpoint& checkpoint, const std::string& source) override {
    restore_state(checkpoint, source, *trainer_, trained_.adapter.get(), *optimizer_, *stream_);
  }

 private:
  void open_index() {
    const PassageOptions& passages = inputs_.config.passages;
    const PassageSource source = parse_passage_source(passages.mode);
    if (source != PassageSource::kRetrieved && source != PassageSource::kMixed) return;
    const std::filesystem::path index = passages.index;
    if (parse_search_mode(passages.retrieval_mode) != SearchMode::kLexical) {
      embedder_ = load_index_embedder(index);
    }
    retriever_ = Retriever::open(index, embedder_);
  }
  std::unique_ptr<GroupStream> make_stream(const TrainingSet& set) const {
    return std::make_unique<GroupStream>(set, inputs_.renderer, retriever_.get(), embedder_.get(),
                                         group_options(inputs_.config));
  }

  RunInputs inputs_;
  RunAdapter trained_;
  std::shared_ptr<const Embedder> embedder_;
  std::shared_ptr<Retriever> retriever_;
  std::unique_ptr<GroupStream> stream_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<Trainer> trainer_;
  DataState before_;  // of the batch that was taken
  std::vector<TrainingSequence> batch_;
  bool eval_is_read_ = false;
  std::vector<TrainingSequence> eval_sequences_;
};

}  // namespace

std::unique_ptr<Recipe> make_sft_recipe(const RunInputs& inputs) {
  return std::make_unique<SftRecipe>(inputs);
}

}  // namespace quarry
