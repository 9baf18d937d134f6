// RAG-Sequence, RAG-Token (Lewis et al. 2020, arXiv:2005.11401) and REPLUG LSR (Shi et al. 2023,
// arXiv:2301.12652): generator and query encoder learn from the likelihood of the answer over the
// passages that are found. The index stays as it is; passages are what it holds, or are embedded
// and learned as well (RAG-end2end, Siriwardhana et al. 2023, arXiv:2210.02627).
#include <algorithm>
#include <iterator>

#include "data/core/error.h"
#include "finetune/recipe.h"
#include "finetune/recipes/rag_alarm.h"
#include "finetune/recipes/rag_refresh.h"
#include "finetune/recipes/rag_stream.h"
#include "finetune/recipes/rag_trainer.h"
#include "finetune/recipes/recipe_state.h"
#include "finetune/run_adapter.h"
#include "finetune/run_inputs.h"
#include "generator/nn/lora_save.h"
#include "retriever/index_embedder.h"
#include "retriever/vector_sync.h"

namespace quarry {
namespace {

MarginalLossFunction loss_of(const std::string& recipe) {
  if (recipe == "rag-sequence") return rag_sequence_loss;
  if (recipe == "rag-token") return rag_token_loss;
  QUARRY_CHECK(recipe == "replug-lsr", ErrorCode::kInvalidArgument, "recipe is \"", recipe,
               "\", wanted sft, rag-sequence, rag-token or replug-lsr");
  return replug_lsr_loss;
}

// A new adapter of the query encoder, or the one to go on from, which is the index's unless another
// one is named; nothing when there is neither.
RunAdapter make_query_adapter(const FinetuneConfig& config, const LoadedEncoder& encoder) {
  const QueryEncoderOptions& options = config.query_encoder;
  const auto& slots = encoder.model->linear_slots();
  std::filesystem::path start = options.start_from;
  if (start.empty()) start = index_adapter(config.passages.index);
  RunAdapter made;
  if (!start.empty()) {
    check_adapter_base(start, encoder.content_hash, encoder.name);
    made.config = std::make_unique<LoraConfig>(LoraConfig::load(start / "adapter_config.json"));
    made.adapter = LoraAdapter::load(start, slots, {});
  } else if (config.rag.train != "generator") {
    LoraSettings settings;
    settings.r = options.r;
    settings.lora_alpha = options.lora_alpha;
    settings.target_all_linear = true;
    settings.exclude_modules = {"pooler.dense"};
    settings.task_type = "FEATURE_EXTRACTION";
    settings.base_model_name_or_path = encoder.name;
    made.config = std::make_unique<LoraConfig>(LoraConfig::from_settings(settings));
    made.adapter = create_adapter(*made.config, slots, "true", config.training.seed);
  }
  return made;
}

// What the index was embedded with beside the encoder; null: nothing.
std::shared_ptr<const LoraAdapter> load_index_adapter(const FinetuneConfig& config,
                                                      const LoadedEncoder& encoder) {
  const std::filesystem::path folder = index_adapter(config.passages.index);
  if (folder.empty()) return nullptr;
  return LoraAdapter::load(folder, encoder.model->linear_slots(), {});
}

std::string without_slash(std::string folder) {
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return folder;
}

class RagRecipe final : public Recipe {
 public:
  explicit RagRecipe(const RunInputs& inputs) : inputs_(inputs) {
    const FinetuneConfig& config = inputs.config;
    const std::filesystem::path index = config.passages.index;
    store_ = PassageStore::open(index / kStoreFileName, PassageStore::Mode::kReadOnly);
    LoadedEncoder encoder =
        load_text_encoder(store_->manifest().embedder_name, kernels::Precision::kFast);
    encoder_name_ = encoder.name;
    encoder_hash_ = encoder.content_hash;
    query_ = make_query_adapter(config, encoder);
    const auto of_index = load_index_adapter(config, encoder);
    index_is_stale_ =
        !config.query_encoder.start_from.empty() &&
        (of_index == nullptr || of_index->content_hash() != query_.adapter->content_hash());
    embedder_ =
        std::make_shared<Embedder>(std::move(encoder), query_.adapter, std::nullopt, of_index);
    retriever_ = Retriever::open(index, embedder_);
    if (config.rag.refresh_every > 0) refresh_ = make_refresh();
    finder_ = make_finder();
    if (trains_generator() || !config.adapter.start_from.empty()) {
      generator_ = make_adapter(config, inputs.base);
    }
    stream_ = make_stream(inputs.train_set);
    make_trainer();
  }

  double sequences_per_epoch() const override { return static_cast<double>(stream_->num_rows()); }
  int64_t epoch() const override { return stream_->state().epoch; }
  double epoch_progress() const override {
    return static_cast<double>(stream_->state().cursor) / static_cast<double>(stream_->num_rows());
  }

  bool take_batch(const std::function<bool()>& may_take) override {
    before_ = stream_->state();
    examples_.clear();
    batch_.clear();
    const auto wanted = static_cast<size_t>(inputs_.batch_size);
    while (examples_.size() < wanted && may_take()) {
      if (stream_->at_end()) {
        QUARRY_CHECK(before_.cursor > 0 || stream_->summary().sequences > 0,
                     ErrorCode::kInvalidArgument, "the training data gave no sequence:\n",
                     to_text(stream_->summary()));
        stream_->start_epoch(stream_->state().epoch + 1);
      }
      std::vector<RagExample> more = stream_->next(static_cast<int64_t>(wanted - examples_.size()));
      std::move(more.begin(), more.end(), std::back_inserter(examples_));
    }
    if (examples_.empty()) return false;
    for (const RagExample& example : examples_) {
      batch_.insert(batch_.end(), example.sequences.begin(), example.sequences.end());
    }
    return true;
  }
  StepResult learn_batch(double learning_rate) override {
    StepResult result;
    try {
      result = trainer_->step(examples_, learning_rate);
    } catch (const Error&) {
      stream_->restore(before_);
      throw;
    }
    if (refresh_ != nullptr) {
      result.figures.emplace_back("index_age", refresh_->age(result.step));
      refresh_->after_step(result.step);
    }
    const CollapseAlarm::Verdict verdict =
        alarm_.judge(result, static_cast<int64_t>(examples_.size()), retriever_->stats().passages);
    result.warning = verdict.warning;
    if (inputs_.config.rag.stop_on_collapse) result.stop = verdict.stop;
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
  const DataSummary& summary() const override { return stream_->summary(); }
  TrainingShape shape() const override {
    TrainingShape shape = training_shape(inputs_.config, inputs_.base, generator_, batch_);
    if (trained_query_ == nullptr) return shape;
    for (const ParameterView& view : trained_query_->parameters()) {
      shape.count.trainable += view.size;
      if (view.size >= kMinElementsFor8bit) shape.count.in_large_tensors += view.size;
      shape.packed_parameters += view.size;
    }
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
      save_query_adapter(saved.query_encoder, card);
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
  bool trains_generator() const { return inputs_.config.rag.train != "query-encoder"; }
  bool trains_passages() const { return inputs_.config.rag.train_passage_encoder; }

  std::unique_ptr<PassageFinder> make_finder() const {
    if (!trains_passages()) return std::make_unique<IndexedPassages>(*retriever_, *store_);
    LivePassagesParts parts;
    parts.retriever = retriever_.get();
    parts.store = store_.get();
    parts.embedder = embedder_.get();
    parts.adapter = query_.adapter.get();
    parts.refresh = refresh_.get();
    parts.group = inputs_.group;
    return std::make_unique<LivePassages>(parts, inputs_.config.rag.over_retrieve);
  }

  std::unique_ptr<IndexRefresh> make_refresh() const {
    IndexRefreshOptions options;
    options.every = inputs_.config.rag.refresh_every;
    options.is_stale = index_is_stale_;
    options.group = inputs_.group;
    return std::make_unique<IndexRefresh>(*store_, *embedder_, query_, options);
  }

  std::unique_ptr<RagStream> make_stream(const TrainingSet& set) const {
    RagStreamOptions options;
    options.top_k = inputs_.config.passages.top_k;
    options.too_long = inputs_.config.data.too_long == "skip" ? TooLong::kSkip : TooLong::kError;
    options.seed = inputs_.config.training.seed;
    return std::make_unique<RagStream>(set, inputs_.renderer, *finder_, *embedder_, options);
  }

  void make_trainer() {
    const FinetuneConfig& config = inputs_.config;
    optimizer_ = make_optimizer(config.training.optimizer, config.adamw_options());
    if (trains_generator()) {
      trained_generator_ =
          std::make_unique<TrainedAdapter>(*generator_.config, *generator_.adapter);
    }
    if (config.rag.train != "generator") {
      trained_query_ =
          std::make_unique<TrainedAdapter>(*query_.config, *query_.adapter, "query_encoder.");
      trained_query_->set_learning_rate_scale(config.query_encoder.learning_rate /
                                              config.training.learning_rate);
    }
    RagTrainerParts parts;
    parts.model = inputs_.base.model.get();
    parts.adapter = generator_.adapter.get();
    parts.generator = trained_generator_.get();
    parts.embedder = embedder_.get();
    parts.query_encoder = trained_query_.get();
    parts.optimizer = optimizer_.get();
    RagTrainerOptions options;
    options.trainer = trainer_options(inputs_);
    options.loss = loss_of(config.recipe);
    options.temperature = config.rag.temperature;
    options.train_passages = trains_passages();
    trainer_ = std::make_unique<RagTrainer>(parts, options);
  }

  void save_query_adapter(const std::filesystem::path& folder, ModelCard card) const {
    const QueryEncoderOptions& options = inputs_.config.query_encoder;
    card.title = concat("LoRA adapter of the ", trains_passages() ? "" : "query ", "encoder for ",
                        encoder_name_);
    card.base_model = encoder_name_;
    card.base_model_hash = encoder_hash_;
    card.pipeline_tag = "feature-extraction";
    card.tags = {"lora", "feature-extraction", "rag"};
    card.description += trains_passages()
                            ? " For questions and passages: an index is embedded with it."
                            : " For questions alone: passages are embedded without it.";
    card.hyperparameters = {{"r", std::to_string(options.r)},
                            {"lora_alpha", concat(options.lora_alpha)},
                            {"learning_rate", concat(options.learning_rate)},
                            {"batch_size", std::to_string(inputs_.batch_size)},
                            {"passages", std::to_string(inputs_.config.passages.top_k)},
                            {"temperature", concat(inputs_.config.rag.temperature)}};
    SaveAdapterOptions save;
    save.notes.base_content_hash = encoder_hash_;
    save.notes.base_name = encoder_name_;
    save.model_card = model_card_markdown(card);
    save_adapter(folder, *query_.config, *query_.adapter, save);
  }

  RunInputs inputs_;
  std::string encoder_name_;
  std::string encoder_hash_;
  bool index_is_stale_ = false;  // embedded with another adapter than training starts from
  RunAdapter generator_;         // without an adapter where the bare base is frozen
  RunAdapter query_;             // likewise
  std::unique_ptr<PassageStore> store_;
  std::shared_ptr<const Embedder> embedder_;
  std::shared_ptr<Retriever> retriever_;
  std::unique_ptr<IndexRefresh> refresh_;  // null: the index alone finds
  std::unique_ptr<PassageFinder> finder_;
  std::unique_ptr<RagStream> stream_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<TrainedAdapter> trained_generator_;  // null: frozen
  std::unique_ptr<TrainedAdapter> trained_query_;      // null: frozen
  std::unique_ptr<RagTrainer> trainer_;
  DataState before_;  // of the batch that was taken
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
