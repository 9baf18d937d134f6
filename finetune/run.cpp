#include "finetune/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <fstream>
#include <numeric>

#include "data/core/error.h"
#include "data/core/hash.h"
#include "data/core/parallel_for.h"
#include "data/core/paths.h"
#include "data/core/progress.h"
#include "data/store/passage_store.h"
#include "finetune/checkpoint.h"
#include "finetune/model_card.h"
#include "finetune/run_adapter.h"
#include "finetune/run_inputs.h"
#include "finetune/run_log.h"
#include "generator/nn/lora_save.h"
#include "generator/weights/model_catalog.h"
#include "retriever/embedder.h"
#include "retriever/search.h"
#include "retriever/vector_sync.h"

namespace quarry {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

struct FinetuneRun::Impl {
  explicit Impl(const FinetuneConfig& wanted)
      : config(wanted),
        base(load_base(config)),
        train_set(read_set(config.data, config.data.train)),
        renderer(base, render_options(config, *base.model)),
        trained(make_adapter(config, base)) {
    limit_rows(config.data.max_examples, config.training.seed, train_set);
    if (config.training.batch_size == 0) {
      config.training.batch_size = automatic_batch_size(train_set.rows.size());
    }
    if (config.training.epochs == 0) {
      config.training.epochs = automatic_epochs(train_set.rows.size());
    }
    open_index();
    stream = std::make_unique<GroupStream>(train_set, renderer, retriever.get(), embedder.get(),
                                           group_options(config));
    optimizer = make_optimizer(config.training.optimizer, config.adamw_options());
    TrainerOptions options;
    options.micro_batch_tokens = config.training.micro_batch_tokens;
    options.packing = config.training.packing;
    options.gradient.compute = config.training.compute == "f32"
                                   ? GradientOptions::Compute::kFloat32
                                   : GradientOptions::Compute::kBFloat16;
    options.gradient.checkpoint_layers = config.training.checkpointing;
    options.max_grad_norm = config.training.max_grad_norm;
    options.lora_dropout = static_cast<float>(config.adapter.lora_dropout);
    options.seed = config.training.seed;
    trainer = std::make_unique<Trainer>(*base.model, *trained.config, *trained.adapter, *optimizer,
                                        options);
  }

  void open_index() {
    const PassageSource source = parse_passage_source(config.passages.mode);
    if (source != PassageSource::kRetrieved && source != PassageSource::kMixed) return;
    const std::filesystem::path index = config.passages.index;
    if (parse_search_mode(config.passages.retrieval_mode) != SearchMode::kLexical) {
      const auto store = PassageStore::open(index / kStoreFileName, PassageStore::Mode::kReadOnly);
      embedder = Embedder::load(store->manifest().embedder_name);
    }
    retriever = Retriever::open(index, embedder);
  }

  // Steps of the whole run, as far as they can be told before the groups are made.
  int64_t planned_steps() const {
    if (config.training.max_steps > 0) return config.training.max_steps;
    const double share = group_options(config).unanswerable_share;
    const double sequences =
        config.training.epochs * static_cast<double>(train_set.rows.size()) / (1.0 - share);
    return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(
                                    sequences / static_cast<double>(config.training.batch_size))));
  }

  // Part of the data that is used up, 0 to 1.
  double data_progress() const {
    const DataState& state = stream->state();
    const double epoch = static_cast<double>(state.epoch) +
                         static_cast<double>(state.cursor) /
                             static_cast<double>(std::max<size_t>(1, train_set.rows.size()));
    return std::min(1.0, epoch / config.training.epochs);
  }

  // The schedule's place: by steps when their number is given, else by the data that is used up.
  int64_t schedule_step(int64_t step, int64_t num_steps) const {
    if (config.training.max_steps > 0) return step;
    return std::min(num_steps - 1,
                    static_cast<int64_t>(data_progress() * static_cast<double>(num_steps)));
  }

  // Whole groups until the batch is full; empty at the end of the run.
  std::vector<TrainingSequence> next_batch() {
    std::vector<TrainingSequence> batch;
    while (static_cast<int64_t>(batch.size()) < config.training.batch_size) {
      const bool by_steps = config.training.max_steps > 0;
      if (!by_steps && data_progress() >= 1.0) break;
      auto group = stream->next_group();
      if (!group) {
        QUARRY_CHECK(stream->summary().sequences > 0, ErrorCode::kInvalidArgument,
                     "the training data gave no sequence:\n", to_text(stream->summary()));
        stream->start_epoch(stream->epoch() + 1);
        continue;
      }
      std::move(group->begin(), group->end(), std::back_inserter(batch));
    }
    return batch;
  }

  void make_eval_sequences() {
    if (config.data.eval.empty()) return;
    TrainingSet set = read_set(config.data, config.data.eval);
    limit_rows(config.data.max_eval_examples, 1, set);
    GroupStream eval_stream(set, renderer, retriever.get(), embedder.get(), group_options(config));
    while (auto group = eval_stream.next_group()) {
      std::move(group->begin(), group->end(), std::back_inserter(eval_sequences));
    }
  }

  void save_adapter_to(const std::filesystem::path& folder, int64_t steps) const {
    const RagTemplate& form = renderer.options().form;
    SaveAdapterOptions options;
    options.notes.base_content_hash = base.content_hash;
    options.notes.base_name = base.name;
    options.notes.rag_template = form.name;
    options.notes.rag_template_version = form.version;
    options.notes.not_in_documents = form.not_in_documents;
    options.model_card = model_card(steps);
    save_adapter(folder, *trained.config, *trained.adapter, options);
  }

  std::string model_card(int64_t steps) const {
    ModelCard card;
    card.title = "LoRA adapter for " + base.name;
    card.base_model = base.name;
    card.base_model_hash = base.content_hash;
    card.description = concat("Trained with `quarry finetune`, ", steps, " steps on ",
                              stream->summary().sequences, " sequences.");
    for (const std::string& notice : adapter_notices(base, *trained.adapter)) {
      card.description += " " + notice;
    }
    card.data_files = data_files;
    card.seed = config.training.seed;
    card.hyperparameters = {{"r", std::to_string(config.adapter.r)},
                            {"lora_alpha", concat(config.adapter.lora_alpha)},
                            {"learning_rate", concat(config.training.learning_rate)},
                            {"batch_size", std::to_string(config.training.batch_size)},
                            {"passages", config.passages.mode}};
    return model_card_markdown(card);
  }

  void save(const FinetuneEvents& events) {
    Checkpoint checkpoint;
    checkpoint.step = trainer->steps_taken();
    checkpoint.epoch = stream->state().epoch;
    checkpoint.data_position = stream->state().position;
    checkpoint.config_hash = config_hash(config);
    checkpoint.parameters = save_parameters(*trainer, *trained.adapter);
    checkpoint.optimizer = optimizer->save();
    checkpoint.extra["data"] = to_json(stream->state());
    checkpoint.extra["best_eval_loss"] = best_eval_loss;
    SaveCheckpointOptions options;
    options.save_total_limit = config.training.save_total_limit;
    log->sync();
    const auto folder = save_checkpoint(config.output_dir, checkpoint, options);
    if (events.note) events.note("saved " + folder.string());
  }

  void load(const std::filesystem::path& folder) {
    const Checkpoint checkpoint = load_checkpoint(folder);
    QUARRY_CHECK(checkpoint.config_hash == config_hash(config), ErrorCode::kInvalidArgument,
                 folder.string(),
                 ": made with other options than these; resume with the configuration in ",
                 (std::filesystem::path(config.output_dir) / "config.yaml").string(),
                 " or choose another output_dir");
    restore_parameters(checkpoint.parameters, folder.string(), *trainer, *trained.adapter);
    optimizer->load(checkpoint.optimizer);
    trainer->set_steps_taken(checkpoint.step);
    stream->restore(
        data_state_from_json(checkpoint.extra.at("data"), (folder / "state.json").string()));
    best_eval_loss = checkpoint.extra.value("best_eval_loss", 0.0);
  }

  void record_files() {
    std::vector<std::string> paths = config.data.train;
    paths.insert(paths.end(), config.data.eval.begin(), config.data.eval.end());
    for (const std::string& path : paths) {
      if (!std::filesystem::is_regular_file(path)) continue;
      DataFileRecord record;
      record.path = std::filesystem::path(path).filename().string();
      record.sha256 = sha256_file_hex(path);
      data_files.push_back(record);
    }
  }

  // Takes up the folder. Returns the checkpoint to continue from, or nothing.
  std::optional<std::filesystem::path> prepare_folder(bool resume) {
    const std::filesystem::path folder = config.output_dir;
    std::error_code ignored;
    const auto latest = latest_checkpoint(folder);
    const bool holds_run = std::filesystem::exists(folder / "config.yaml", ignored);
    QUARRY_CHECK(resume || !holds_run, ErrorCode::kInvalidArgument, folder.string(),
                 ": holds a run already; continue it with --resume or choose another output_dir");
    std::filesystem::create_directories(folder);
    record_files();
    write_file_atomically(folder / "config.yaml", to_yaml(config));
    return resume ? latest : std::nullopt;
  }

  void log_step(const StepResult& result, double tokens_per_second) {
    MetricsRow row;
    row.step = result.step;
    row.values = {{"loss", result.loss},
                  {"learning_rate", result.learning_rate},
                  {"grad_norm", result.gradient_norm},
                  {"sequences", static_cast<double>(result.sequences)},
                  {"tokens", static_cast<double>(result.tokens)},
                  {"rows", static_cast<double>(result.rows)},
                  {"targets", static_cast<double>(result.targets)},
                  {"tokens_per_second", tokens_per_second}};
    log->append(row);
  }

  void evaluate(const FinetuneEvents& events) {
    if (eval_sequences.empty() || evaluated_at == trainer->steps_taken()) return;
    evaluated_at = trainer->steps_taken();
    const double loss = trainer->evaluate(eval_sequences);
    MetricsRow row;
    row.step = trainer->steps_taken();
    row.phase = "eval";
    row.values = {{"loss", loss}};
    log->append(row);
    if (events.note) events.note(concat("step ", row.step, ": evaluation loss ", loss));
    if (best_eval_loss == 0.0 || loss < best_eval_loss) {
      best_eval_loss = loss;
      save_adapter_to(std::filesystem::path(config.output_dir) / "best", row.step);
    }
  }

  // Gets the next batch and learns it. False: the data are used up.
  bool one_step(int64_t num_steps, const FinetuneEvents& events, FinetuneOutcome& outcome) {
    const auto start = Clock::now();
    // A step that fails must leave a state to go on from, with its batch not yet taken.
    const DataState before = stream->state();
    const std::vector<TrainingSequence> batch = next_batch();
    if (batch.empty()) return false;
    const double rate = config.learning_rate_schedule(num_steps).at(
        schedule_step(trainer->steps_taken(), num_steps));
    StepResult result;
    try {
      result = trainer->step(batch, rate);
    } catch (const Error&) {
      stream->restore(before);
      if (trainer->steps_taken() > 0) save(events);
      throw;
    }
    const double tokens_per_second = static_cast<double>(result.tokens) / seconds_since(start);
    log_step(result, tokens_per_second);
    recent_losses.push_back(result.loss);
    if (recent_losses.size() > 50) recent_losses.pop_front();
    outcome.steps = result.step;
    if (events.on_step) events.on_step(result, num_steps, tokens_per_second);
    return true;
  }

  bool is_due(int64_t every) const { return every > 0 && trainer->steps_taken() % every == 0; }

  FinetuneConfig config;
  LoadedGenerator base;
  TrainingSet train_set;
  SequenceRenderer renderer;
  std::shared_ptr<const Embedder> embedder;
  std::shared_ptr<Retriever> retriever;
  RunAdapter trained;
  std::unique_ptr<GroupStream> stream;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<Trainer> trainer;
  std::unique_ptr<RunLog> log;
  std::vector<TrainingSequence> eval_sequences;
  std::vector<DataFileRecord> data_files;
  std::deque<double> recent_losses;
  double best_eval_loss = 0.0;  // 0: none yet
  int64_t evaluated_at = -1;    // step of the last evaluation
};

FinetuneRun::FinetuneRun(const FinetuneConfig& config) {
  check_config(config);
  impl_ = std::make_unique<Impl>(config);
}

FinetuneRun::~FinetuneRun() = default;

std::string FinetuneRun::describe() {
  Impl& run = *impl_;
  const std::vector<TrainingSequence> batch = run.next_batch();
  QUARRY_CHECK(!batch.empty(), ErrorCode::kInvalidArgument, "the training data gave no sequence:\n",
               to_text(run.stream->summary()));
  const TrainingShape shape = training_shape(run.config, run.base, run.trained, batch);
  const auto start = Clock::now();
  const StepResult step = run.trainer->step(batch, 1e-3);  // the adapter is thrown away
  const double seconds = seconds_since(start);
  const double num_steps = static_cast<double>(run.planned_steps());
  std::string notices;
  for (const std::string& notice : adapter_notices(run.base, *run.trained.adapter)) {
    notices += "\nnote             " + notice;
  }
  std::string text = concat(
      format_trainable(shape.count), notices, "\nbase model       ", run.base.name,
      "\ntraining rows    ", run.train_set.rows.size(), "\noptimizer steps  about ",
      run.planned_steps(), "\nexpected time    ", format_duration(seconds * num_steps),
      " (the first step took ", format_duration(seconds), ": ", step.sequences, " sequences, ",
      step.tokens, " tokens in ", step.rows,
      " rows)\n\nMemory at the peak, estimated for passes of ", shape.tokens, " rows\n",
      to_text(estimate_training(shape)), "\nThe first batch\n", to_text(run.stream->summary()));
  for (size_t i = 0; i < std::min<size_t>(2, batch.size()); ++i) {
    text += "\n" + quarry::describe(batch[i], *run.base.tokenizer) + "\n";
  }
  return text;
}

FinetuneOutcome FinetuneRun::train(bool resume, const FinetuneEvents& events) {
  Impl& run = *impl_;
  const auto start = Clock::now();
  const std::filesystem::path folder = run.config.output_dir;
  const auto checkpoint = run.prepare_folder(resume);
  if (checkpoint) {
    run.load(*checkpoint);
    if (events.note) events.note("continuing from " + checkpoint->string());
  }
  for (const std::string& notice : adapter_notices(run.base, *run.trained.adapter)) {
    if (events.note) events.note("note: " + notice);
  }
  run.log = std::make_unique<RunLog>(folder, checkpoint ? run.trainer->steps_taken() : -1);
  write_environment(folder, QUARRY_VERSION, run.data_files);
  run.make_eval_sequences();

  FinetuneOutcome outcome;
  outcome.steps = run.trainer->steps_taken();
  const int64_t num_steps = run.planned_steps();
  int64_t epoch = run.stream->epoch();
  const auto more = [&] {
    return run.config.training.max_steps == 0 || run.trainer->steps_taken() < num_steps;
  };
  while (more() && run.one_step(num_steps, events, outcome)) {
    const bool epoch_ended = run.stream->epoch() != std::exchange(epoch, run.stream->epoch());
    if (run.config.training.eval_every > 0 ? run.is_due(run.config.training.eval_every)
                                           : epoch_ended) {
      run.evaluate(events);
    }
    const bool cancelled = events.cancel != nullptr && events.cancel->cancelled();
    if (cancelled || run.is_due(run.config.training.save_every)) run.save(events);
    if (cancelled) events.cancel->check("training");
  }
  run.evaluate(events);
  run.save(events);
  outcome.last_adapter = folder / "last";
  run.save_adapter_to(outcome.last_adapter, outcome.steps);
  run.log->write_loss_curve("Fine-tuning " + run.base.name);
  outcome.best_adapter = run.eval_sequences.empty() ? outcome.last_adapter : folder / "best";
  outcome.best_eval_loss = run.best_eval_loss;
  outcome.data = run.stream->summary();
  outcome.seconds = seconds_since(start);
  if (!run.recent_losses.empty()) {
    outcome.train_loss = std::accumulate(run.recent_losses.begin(), run.recent_losses.end(), 0.0) /
                         static_cast<double>(run.recent_losses.size());
  }
  return outcome;
}

}  // namespace quarry
