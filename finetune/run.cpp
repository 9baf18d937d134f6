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
#include "finetune/checkpoint.h"
#include "finetune/recipe.h"
#include "finetune/run_inputs.h"
#include "finetune/run_log.h"

namespace quarry {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

struct FinetuneRun::Impl {
  explicit Impl(const FinetuneConfig& wanted)
      : config(wanted), train_set(read_set(config.data, config.data.train)) {
    limit_rows(config.data.max_examples, config.training.seed, train_set);
    if (config.data.sample_ratio < 1.0) {
      const double rows = config.data.sample_ratio * static_cast<double>(train_set.rows.size());
      limit_rows(std::max<int64_t>(1, std::llround(rows)), config.training.seed, train_set);
    }
    held_out = hold_out(config, train_set);
    if (config.training.batch_size == 0) {
      config.training.batch_size = automatic_batch_size(train_set.rows.size());
    }
    if (config.training.epochs == 0) {
      config.training.epochs = automatic_epochs(train_set.rows.size());
    }
    const DataInputs inputs{config, train_set, held_out};
    if (config.recipe == "classification") {
      recipe = make_classification_recipe(inputs);
      return;
    }
    base = std::make_unique<LoadedGenerator>(load_base(config));
    renderer = std::make_unique<SequenceRenderer>(*base, render_options(config, *base->model));
    recipe = make_recipe(RunInputs(inputs, *base, *renderer));
  }

  // Steps of the whole run, as far as they can be told before the batches are made.
  int64_t planned_steps() const {
    if (config.training.max_steps > 0) return config.training.max_steps;
    const double sequences = config.training.epochs * recipe->sequences_per_epoch();
    return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(
                                    sequences / static_cast<double>(config.training.batch_size))));
  }

  // Part of the data that is used up, 0 to 1.
  double data_progress() const {
    const double epochs = static_cast<double>(recipe->epoch()) + recipe->epoch_progress();
    return std::min(1.0, epochs / config.training.epochs);
  }

  // The schedule's place: by steps when their number is given, else by the data that is used up.
  int64_t schedule_step(int64_t step, int64_t num_steps) const {
    if (config.training.max_steps > 0) return step;
    return std::min(num_steps - 1,
                    static_cast<int64_t>(data_progress() * static_cast<double>(num_steps)));
  }

  // False at the end of the run.
  bool take_batch() {
    return recipe->take_batch(
        [this] { return config.training.max_steps > 0 || data_progress() < 1.0; });
  }

  SavedAdapters save_adapters(const std::string& name, int64_t steps) const {
    return recipe->save_adapters(std::filesystem::path(config.output_dir) / name,
                                 model_card(steps));
  }

  ModelCard model_card(int64_t steps) const {
    ModelCard card;
    card.description = concat("Trained with `quarry finetune` (", config.recipe, "), ", steps,
                              " steps on ", recipe->summary().sequences, " sequences.");
    for (const std::string& notice : recipe->notices()) card.description += " " + notice;
    card.data_files = data_files;
    card.seed = config.training.seed;
    card.hyperparameters = {{"r", std::to_string(config.adapter.r)},
                            {"lora_alpha", concat(config.adapter.lora_alpha)},
                            {"learning_rate", concat(config.training.learning_rate)},
                            {"batch_size", std::to_string(config.training.batch_size)},
                            {"passages", config.passages.mode}};
    return card;
  }

  void save(const FinetuneEvents& events) {
    Checkpoint checkpoint;
    recipe->save(checkpoint);
    checkpoint.config_hash = config_hash(config);
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
    recipe->restore(checkpoint, folder.string());
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
    row.values.insert(row.values.end(), result.figures.begin(), result.figures.end());
    log->append(row);
  }

  void evaluate(const FinetuneEvents& events) {
    if (evaluated_at == recipe->steps_taken()) return;
    evaluated_at = recipe->steps_taken();
    MetricsRow row;
    const std::optional<double> loss = recipe->evaluate(row.values);
    if (!loss) return;
    eval_figures = row.values;
    row.step = recipe->steps_taken();
    row.phase = "eval";
    row.values.insert(row.values.begin(), {"loss", *loss});
    log->append(row);
    if (events.note) {
      std::string line = concat("step ", row.step, ": evaluation loss ", *loss);
      for (const auto& [name, value] : eval_figures) line += concat(", ", name, " ", value);
      events.note(line);
    }
    if (best_eval_loss == 0.0 || *loss < best_eval_loss) {
      best_eval_loss = *loss;
      save_adapters("best", row.step);
    }
  }

  // Gets the next batch and learns it. False: the data are used up.
  bool one_step(int64_t num_steps, const FinetuneEvents& events, FinetuneOutcome& outcome) {
    const auto start = Clock::now();
    if (!take_batch()) return false;
    const double rate = config.learning_rate_schedule(num_steps).at(
        schedule_step(recipe->steps_taken(), num_steps));
    StepResult result;
    try {
      result = recipe->learn_batch(rate);
    } catch (const Error&) {
      // A step that fails must leave a state to go on from.
      if (recipe->steps_taken() > 0) save(events);
      throw;
    }
    const double tokens_per_second = static_cast<double>(result.tokens) / seconds_since(start);
    log_step(result, tokens_per_second);
    recent_losses.push_back(result.loss);
    if (recent_losses.size() > 50) recent_losses.pop_front();
    outcome.steps = result.step;
    if (events.on_step) events.on_step(result, num_steps, tokens_per_second);
    if (!result.warning.empty() && events.note) events.note("warning: " + result.warning);
    return true;
  }

  bool is_due(int64_t every) const { return every > 0 && recipe->steps_taken() % every == 0; }

  FinetuneConfig config;
  TrainingSet train_set;
  TrainingSet held_out;
  std::unique_ptr<LoadedGenerator> base;  // of recipes that train a generator
  std::unique_ptr<SequenceRenderer> renderer;
  std::unique_ptr<Recipe> recipe;
  std::unique_ptr<RunLog> log;
  std::vector<DataFileRecord> data_files;
  std::deque<double> recent_losses;
  double best_eval_loss = 0.0;                               // 0: none yet
  std::vector<std::pair<std::string, double>> eval_figures;  // of the last evaluation
  int64_t evaluated_at = -1;                                 // step of the last evaluation
};

FinetuneRun::FinetuneRun(const FinetuneConfig& config) {
  check_config(config);
  impl_ = std::make_unique<Impl>(config);
}

FinetuneRun::~FinetuneRun() = default;

std::string FinetuneRun::describe() {
  Impl& run = *impl_;
  Recipe& recipe = *run.recipe;
  QUARRY_CHECK(run.take_batch(), ErrorCode::kInvalidArgument,
               "the training data gave no sequence:\n", to_text(recipe.summary()));
  TrainingShape shape = recipe.shape();
  std::string first_batch = "\nThe first batch\n" + to_text(recipe.summary());
  for (const std::string& example : recipe.examples(2)) first_batch += "\n" + example + "\n";
  const auto start = Clock::now();
  const StepResult step = recipe.learn_batch(1e-3);  // the adapter is thrown away
  const double seconds = seconds_since(start);
  // The largest pass that the run will have, as far as its first batches tell.
  constexpr int64_t kBatchesSeen = 16;
  const int64_t num_steps = run.planned_steps();
  for (int64_t i = 1; i < std::min(num_steps, kBatchesSeen) && run.take_batch(); ++i) {
    shape.tokens = std::max(shape.tokens, recipe.shape().tokens);
  }
  std::string notices;
  for (const std::string& notice : recipe.notices()) {
    notices += "\nnote             " + notice;
  }
  return concat(format_trainable(shape.count), notices, "\nbase model       ", recipe.base_name(),
                "\ntraining rows    ", run.train_set.rows.size(), "\noptimizer steps  about ",
                num_steps, "\nexpected time    ",
                format_duration(seconds * static_cast<double>(num_steps)), " (the first step took ",
                format_duration(seconds), ": ", step.sequences, " sequences, ", step.tokens,
                " tokens in ", step.rows, " rows)\n\nMemory at the peak, estimated for passes of ",
                shape.tokens, " rows\n", to_text(estimate_training(shape)), first_batch);
}

FinetuneOutcome FinetuneRun::train(bool resume, const FinetuneEvents& events) {
  Impl& run = *impl_;
  Recipe& recipe = *run.recipe;
  const auto start = Clock::now();
  const std::filesystem::path folder = run.config.output_dir;
  const auto checkpoint = run.prepare_folder(resume);
  if (checkpoint) {
    run.load(*checkpoint);
    if (events.note) events.note("continuing from " + checkpoint->string());
  }
  for (const std::string& notice : recipe.notices()) {
    if (events.note) events.note("note: " + notice);
  }
  run.log = std::make_unique<RunLog>(folder, checkpoint ? recipe.steps_taken() : -1);
  write_environment(folder, QUARRY_VERSION, run.data_files);

  FinetuneOutcome outcome;
  outcome.steps = recipe.steps_taken();
  const int64_t num_steps = run.planned_steps();
  int64_t epoch = recipe.epoch();
  const auto more = [&] {
    return run.config.training.max_steps == 0 || recipe.steps_taken() < num_steps;
  };
  while (more() && run.one_step(num_steps, events, outcome)) {
    const bool epoch_ended = recipe.epoch() != std::exchange(epoch, recipe.epoch());
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
  const SavedAdapters last = run.save_adapters("last", outcome.steps);
  outcome.last_adapter = last.generator;
  outcome.last_query_adapter = last.query_encoder;
  run.log->write_loss_curve("Fine-tuning " + recipe.base_name());
  const auto best_of = [&](const std::filesystem::path& path, const char* name) {
    return path.empty() || run.best_eval_loss == 0.0 ? path : folder / name;
  };
  outcome.best_adapter = best_of(last.generator, "best");
  outcome.best_query_adapter = best_of(last.query_encoder, "best-query-encoder");
  outcome.best_eval_loss = run.best_eval_loss;
  outcome.eval_figures = run.eval_figures;
  outcome.data = recipe.summary();
  outcome.seconds = seconds_since(start);
  if (!run.recent_losses.empty()) {
    outcome.train_loss = std::accumulate(run.recent_losses.begin(), run.recent_losses.end(), 0.0) /
                         static_cast<double>(run.recent_losses.size());
  }
  return outcome;
}

}  // namespace quarry
