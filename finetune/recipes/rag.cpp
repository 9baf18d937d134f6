// RAG-Sequence, RAG-Token (Lewis et al. 2020, arXiv:2005.11401), REPLUG LSR (Shi et al. 2023,
// arXiv:2301.12652) and PDist of Atlas (Izacard et al. 2022, arXiv:2208.03299): generator and query
// encoder learn from the likelihood of the answer over the passages that are found. The index stays
// as it is; passages are what it holds, or are embedded and learned as well (RAG-end2end,
// Siriwardhana et al. 2023, arXiv:2210.02627).
#include "data/core/error.h"
#include "finetune/recipe.h"
#include "finetune/recipes/encoder_shape.h"
#include "finetune/recipes/query_adapter.h"
#include "finetune/recipes/rag_alarm.h"
#include "finetune/recipes/rag_refresh.h"
#include "finetune/recipes/rag_stream.h"
#include "finetune/recipes/rag_trainer.h"
#include "finetune/recipes/recipe_state.h"
#include "finetune/recipes/row_recipe.h"
#include "finetune/recipes/take_rows.h"
#include "finetune/run_adapter.h"
#include "finetune/run_inputs.h"
#include "retriever/vector_sync.h"

namespace quarry {
namespace {

MarginalLossFunction loss_of(const std::string& recipe) {
  if (recipe == "rag-sequence") return rag_sequence_loss;
  if (recipe == "rag-token") return rag_token_loss;
  if (recipe == "distill") return pdist_loss;
  QUARRY_CHECK(recipe == "replug-lsr", ErrorCode::kInvalidArgument, "recipe is \"", recipe,
               "\", wanted sft, rag-sequence, rag-token, replug-lsr or distill");
  return replug_lsr_loss;
}

std::string without_slash(std::string folder) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return folder;
}

class RagRecipe final : public RowRecipe<RagStream> {
 public:
  explicit RagRecipe(const RunInputs& inputs) : inputs_(inputs) {
    const FinetuneConfig& config = inputs.config;
    const std::filesystem::path index = config.passages.index;
    store_ = PassageStore::open(index / kStoreFileName, PassageStore::Mode::kReadOnly);
    query_ = load_query_encoder(config, embedder_model(store_->manifest()), trains_query_encoder());
    retriever_ = Retriever::open(index, query_.embedder);
    if (config.rag.refresh_every > 0) refresh_ = make_refresh();
    finder_ = make_finder();
    if (trains_generator() || !config.adapter.start_from.empty()) {
      generator_ = make_adapter(config, inputs.base);
    }
    stream_ = make_stream(inputs.train_set);
    make_trainer();
  }

  bool take_batch(const std::function<bool()>& may_take) override {
    before_ = stream_->state();
    batch_.clear();
    examples_ = take_rows<RagExample>(*stream_, inputs_.batch_size, may_take,
                                      "the training data gave no sequence");
    if (examples_.empty()) return false;
    batch_ = all_sequences(examples_);
    return true;
  }
  StepResult learn_batch(double learning_rate) override {
    StepResult result = step_or_put_back(*trainer_, examples_, learning_rate, *stream_, before_);
    const CollapseAlarm::Verdict verdict =
        alarm_.judge(result, static_cast<int64_t>(examples_.size()), retriever_->stats().passages);
    result.warning = verdict.warning;
    if (inputs_.config.rag.stop_on_collapse) result.stop = verdict.stop;
    if (refresh_ != nullptr) {
      result.figures.emplace_back("index_age", refresh_->age(result.step));
      refresh_->after_step(result.step);
    }
    return result;
  }
  std::vector<std::string> examples(size_t most) const override {
    return describe_first(batch_, most, *inputs_.base.tokenizer);
  }
  const std::string& base_name() const override { return inputs_.base.name; }

  std::optional<double> evaluate(std::vector<std::pair<std::string, double>>& figures) override {
    if (!eval_set_) eval_set_ = evaluation_set(inputs_);
    if (!eval_set_) return std::nullopt;
    // With the passages that the query encoder finds now.
    const auto stream = make_stream(*eval_set_);
    const std::vector<RagExample> examples = stream->next(stream->num_rows());
    if (examples.empty()) return std::nullopt;
    return trainer_->evaluate(examples, figures);
  }

  int64_t steps_taken() const override { return trainer_->steps_taken(); }
  TrainingShape shape() const override {
    TrainingShape shape = training_shape(inputs_.config, inputs_.base, generator_, batch_);
    if (trained_query_ != nullptr) count_adapter(*query_.adapter.adapter, shape);
    return shape;
  }
  std::vector<std::string> notices() const override {
    return generator_.adapter == nullptr ? std::vector<std::string>()
                                         : adapter_notices(inputs_.base, *generator_.adapter);
  }

  SavedAdapters save_adapters(const std::filesystem::path& folder,
                              const ModelCard& card) const override {
    SavedAdapters saved;
    if (trained_generator_ != nullptr) {
      saved.generator = folder;
      save_generator_adapter(folder, inputs_, generator_, card);
    }
    if (trained_query_ != nullptr) {
      saved.query_encoder = folder.string() + "-query-encoder";
      save_query_adapter(saved.query_encoder, inputs_.config, *query_.embedder, query_.adapter,
                         card,
                         {{"batch_size", std::to_string(inputs_.batch_size)},
                          {"passages", std::to_string(inputs_.config.passages.top_k)},
                          {"temperature", concat(inputs_.config.rag.temperature)}});
    }
    return saved;
  }
  std::string next_command(const SavedAdapters& saved) const override {
    if (!trains_passages()) return "";
    const std::string& index = inputs_.config.passages.index;
    return concat("quarry index reembed ", index, " ", without_slash(index), "-tuned",
                  " --embedder-adapter ", saved.query_encoder.string());
  }
  void save(Checkpoint& checkpoint) override {
    save_state(*trainer_, generator_.adapter.get(), *optimizer_, *stream_, checkpoint);
    checkpoint.extra["alarm"] = alarm_.save();
    if (refresh_ != nullptr) refresh_->save(checkpoint);
  }
  void restore(const Checkpoint& checkpoint, const std::string& source) override {
    restore_state(checkpoint, source, *trainer_, generator_.adapter.get(), *optimizer_, *stream_);
    if (checkpoint.extra.contains("alarm")) alarm_.restore(checkpoint.extra["alarm"], source);
    if (refresh_ != nullptr) refresh_->restore(checkpoint, source);
  }

 private:
  bool trains_generator() const { return inputs_.config.trains_generator(); }
  bool trains_query_encoder() const { return inputs_.config.rag.train != "generator"; }
  bool trains_passages() const { return inputs_.config.rag.train_passage_encoder; }

  std::unique_ptr<PassageFinder> make_finder() const {
    if (!trains_passages()) return std::make_unique<IndexedPassages>(*retriever_, *store_);
    LivePassagesParts parts;
    parts.retriever = retriever_.get();
    parts.store = store_.get();
    parts.embedder = query_.embedder.get();
    parts.adapter = query_.adapter.adapter.get();
    parts.refresh = refresh_.get();
    parts.group = inputs_.group;
    return std::make_unique<LivePassages>(parts, inputs_.config.rag.over_retrieve);
  }

  std::unique_ptr<IndexRefresh> make_refresh() const {
    IndexRefreshOptions options;
    options.every = inputs_.config.rag.refresh_every;
    options.is_stale = query_.index_is_stale;
    options.group = inputs_.group;
    return std::make_unique<IndexRefresh>(*store_, *query_.embedder, query_.adapter, options);
  }

  std::unique_ptr<RagStream> make_stream(const TrainingSet& set) const {
    RagStreamOptions options;
    options.top_k = inputs_.config.passages.top_k;
    options.too_long = inputs_.config.data.too_long == "skip" ? TooLong::kSkip : TooLong::kError;
    options.seed = inputs_.config.training.seed;
    options.abstain = inputs_.config.rag.abstain;
    return std::make_unique<RagStream>(set, inputs_.renderer, *finder_, *query_.embedder, options);
  }

  void make_trainer() {
    const FinetuneConfig& config = inputs_.config;
    optimizer_ = make_optimizer(config.training.optimizer, config.adamw_options());
    if (trains_generator()) {
      trained_generator_ =
          std::make_unique<TrainedAdapter>(*generator_.config, *generator_.adapter);
    }
    if (trains_query_encoder()) trained_query_ = make_trained_query_adapter(config, query_.adapter);
    RagTrainerParts parts;
    parts.model = inputs_.base.model.get();
    parts.adapter = generator_.adapter.get();
    parts.generator = trained_generator_.get();
    parts.embedder = query_.embedder.get();
    parts.query_encoder = trained_query_.get();
    parts.optimizer = optimizer_.get();
    RagTrainerOptions options;
    options.trainer = trainer_options(inputs_);
    options.loss = loss_of(config.recipe);
    options.temperature = config.rag.temperature;
    options.teacher_temperature = config.distill.temperature;
    options.train_passages = trains_passages();
    trainer_ = std::make_unique<RagTrainer>(parts, options);
  }

  RunInputs inputs_;
  RunAdapter generator_;  // without an adapter where the bare base is frozen
  QueryEncoder query_;    // likewise
  std::unique_ptr<PassageStore> store_;
  std::shared_ptr<Retriever> retriever_;
  std::unique_ptr<IndexRefresh> refresh_;  // null: the index alone finds
  std::unique_ptr<PassageFinder> finder_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<TrainedAdapter> trained_generator_;  // null: frozen
  std::unique_ptr<TrainedAdapter> trained_query_;      // null: frozen
  std::unique_ptr<RagTrainer> trainer_;
  std::vector<RagExample> examples_;
  std::vector<TrainingSequence> batch_;
  std::optional<TrainingSet> eval_set_;  // once it has been read
  CollapseAlarm alarm_;
};

}  // namespace

std::unique_ptr<Recipe> make_rag_recipe(const RunInputs& inputs) {
  return std::make_unique<RagRecipe>(inputs);
}

}  // namespace quarry
