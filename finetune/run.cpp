#include "finetune/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <fstream>
#include <numeric>
#include <sstream>

#include "data/core/error.h"
#include "data/core/hash.h"
#include "data/core/parallel_for.h"
#include "data/core/paths.h"
#include "data/core/progress.h"
#include "data/core/stopwatch.h"
#include "finetune/checkpoint.h"
#include "finetune/recipe.h"
#include "finetune/run_inputs.h"
#include "finetune/run_log.h"
#include "finetune/shared_step.h"

namespace quarry {
namespace {

using Clock = std::chrono::steady_clock;

// Calls `body`; the other processes of the group are told of an error that ends this one.
template <typename Body>
auto saying_goodbye(ProcessGroup* group, const Body& body) -> decltype(body()) {
  try {
    return body();
  } catch (const LostRankError&) {
    throw;  // they know
  } catch (const std::exception& error) {
    if (group != nullptr) group->leave(error.what());
    throw;
  }
}

}  // namespace

struct FinetuneRun::Impl {
  Impl(const FinetuneConfig& wanted, ProcessGroup* together)
      : config(wanted), group(together), train_set(read_set(config.data, config.data.train)) {
    limit_rows(config.data.max_examples, config.training.seed, train_set);
    if (config.data.sample_ratio < 1.0) {
      const double rows = config.data.sample_ratio * static_cast<double>(train_set.rows.size());
      limit_rows(std::max<int64_t>(1, std::llround(rows)), config.training.seed, train_set);
    }
    held_out = hold_out(config, train_set);
    const int64_t processes = num_ranks(group);
    if (config.training.batch_size == 0) {
      const int64_t wanted_batch = automatic_batch_size(train_set.rows.size());
      config.training.batch_size = (wanted_batch + processes - 1) / processes;
    }
    batch_size = config.training.batch_size * processes;
    if (config.training.epochs == 0) {
      config.training.epochs = automatic_epochs(train_set.rows.size());
    }
    check_agreement();
    const DataInputs inputs{config, train_set, held_out, batch_size, group};
    recipe = make_encoder_recipe(inputs);
    if (recipe != nullptr) return;
    base = std::make_unique<LoadedGenerator>(load_base(config));
    renderer = std::make_unique<SequenceRenderer>(*base, render_options(config, *base->model));
    recipe = make_recipe(RunInputs(inputs, *base, *renderer));
  }

  // Rank 0 writes for all.
  bool writes() const { return rank_of(group) == 0; }

  // What must not differ between processes, nor across a resume.
  std::string identity() const {
    FinetuneConfig of_all = config;
    of_all.training.batch_size = batch_size;
    return config_hash(of_all);
  }

  void check_agreement() const {
    if (group == nullptr) return;
    const std::string own = concat(identity(), " ", train_set.rows.size(), " ", QUARRY_VERSION);
    QUARRY_CHECK(broadcast_text(*group, own) == own, ErrorCode::kInvalidArgument, "rank ",
                 group->rank(),
                 " has other options, data or another version of the program than rank 0");
  }

  // Whether it is so on any rank.
  bool on_any_rank(bool here) const {
    std::vector<double> count = {here ? 1.0 : 0.0};
    sum_over_ranks(group, count);
    return count[0] > 0.0;
  }

  // Steps of the whole run, as far as they can be told before the batches are made.
  int64_t planned_steps() const {
    if (config.training.max_steps > 0) return config.training.max_steps;
    const double sequences = config.training.epochs * recipe->sequences_per_epoch();
    return std::max<int64_t>(
        1, static_cast<int64_t>(std::ceil(sequences / static_cast<double>(batch_size))));
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
                            {"batch_size", std::to_string(batch_size)},
                            {"passages", config.passages.mode}};
    return card;
  }

  void save(const FinetuneEvents& events) {
    if (!writes()) return;
    Checkpoint checkpoint;
    recipe->save(checkpoint);
    checkpoint.config_hash = identity();
    checkpoint.extra["best_eval_loss"] = best_eval_loss;
    SaveCheckpointOptions options;
    options.save_total_limit = config.training.save_total_limit;
    log->sync();
    const auto folder = save_checkpoint(config.output_dir, checkpoint, options);
    if (events.note) events.note("saved " + folder.string());
  }

  void load(const std::filesystem::path& folder) {
    const Checkpoint checkpoint = load_checkpoint(folder);
    QUARRY_CHECK(checkpoint.config_hash == identity(), ErrorCode::kInvalidArgument, folder.string(),
                 ": made with other options than these", differences(), "; resume with --config ",
                 config_path().string(), " or choose another output_dir");
    recipe->restore(checkpoint, folder.string());
    best_eval_loss = checkpoint.extra.value("best_eval_loss", 0.0);
  }

  std::filesystem::path config_path() const {
    return std::filesystem::path(config.output_dir) / "config.yaml";
  }

  // Of the run's configuration from this one, for people: " (max_steps: 2 there)".
  std::string differences() const {
    std::istringstream here(to_yaml(config));
    std::ifstream there(config_path());
    std::string found;
    std::string wanted;
    std::string list;
    int count = 0;
    while (count < 3 && std::getline(here, wanted) && std::getline(there, found)) {
      const size_t text = found.find_first_not_of(' ');
      if (found == wanted || text == std::string::npos) continue;
      list += concat(count++ == 0 ? " (" : ", ", found.substr(text));
    }
    if (list.empty()) {
      return concat(" (the batch of all processes together is ", batch_size, ")");
    }
    return list + " there)";
  }

  // Nothing where none of them is learned from.
  std::optional<int64_t> count_rows_of(const std::string& path) const {
    const std::string beginning = path + ":";
    const auto count = std::count_if(
        train_set.rows.begin(), train_set.rows.end(), [&beginning](const TrainingRow& row) {
          return row.where.compare(0, beginning.size(), beginning) == 0;
        });
    return count == 0 ? std::nullopt : std::optional<int64_t>(count);
  }

  void record_files() {
    std::vector<std::string> paths = config.data.train;
    paths.insert(paths.end(), config.data.eval.begin(), config.data.eval.end());
    for (const std::string& path : paths) {
      if (!std::filesystem::is_regular_file(path)) continue;
      DataFileRecord record;
      record.path = std::filesystem::path(path).filename().string();
      record.sha256 = sha256_file_hex(path);
      record.num_examples = count_rows_of(path);
      data_files.push_back(record);
    }
  }

  // The checkpoint that all continue from, or nothing.
  std::optional<std::filesystem::path> agree_on_checkpoint(bool resume) {
    std::optional<std::filesystem::path> checkpoint;
    if (writes()) checkpoint = prepare_folder(resume);
    if (group == nullptr) return checkpoint;
    const std::string name =
        broadcast_text(*group, checkpoint ? checkpoint->filename().string() : "");
    if (name.empty()) return std::nullopt;
    return std::filesystem::path(config.output_dir) / name;
  }

  // Takes up the folder. Returns the checkpoint to continue from, or nothing.
  std::optional<std::filesystem::path> prepare_folder(bool resume) {
    const std::filesystem::path folder = config.output_dir;
    std::error_code ignored;
    const auto latest = latest_checkpoint(folder);
    const bool holds_run = std::filesystem::exists(config_path(), ignored);
    QUARRY_CHECK(resume || !holds_run, ErrorCode::kInvalidArgument, folder.string(),
                 ": holds a run already; continue it with --resume or choose another output_dir");
    QUARRY_CHECK(
        !std::filesystem::exists(folder, ignored) || std::filesystem::is_directory(folder, ignored),
        ErrorCode::kInvalidArgument, folder.string(), ": is a file, wanted a run folder");
    std::error_code failure;
    std::filesystem::create_directories(folder, failure);
    QUARRY_CHECK(std::filesystem::is_directory(folder, ignored), ErrorCode::kUnavailable,
                 folder.string(), ": cannot make this folder: ", failure.message());
    record_files();
    return resume ? latest : std::nullopt;
  }

  void log_step(const StepResult& result, double tokens_per_second) {
    if (!log) return;
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
    if (log) log->append(row);
    if (events.note) {
      std::string line = concat("step ", row.step, ": evaluation loss ", *loss);
      for (const auto& [name, value] : eval_figures) line += concat(", ", name, " ", value);
      events.note(line);
    }
    if (best_eval_loss == 0.0 || *loss < best_eval_loss) {
      best_eval_loss = *loss;
      if (writes()) save_adapters("best", row.step);
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
    stop_reason = result.stop;
    return true;
  }

  FinetuneOutcome train(bool resume, const FinetuneEvents& events);
  void take_steps(const FinetuneEvents& events, FinetuneOutcome& outcome);
  void leave_adapters(FinetuneOutcome& outcome) const;
  [[noreturn]] void throw_stopped() const;

  bool is_due(int64_t every) const { return every > 0 && recipe->steps_taken() % every == 0; }

  FinetuneConfig config;
  ProcessGroup* group;     // null: this process alone
  int64_t batch_size = 0;  // of all processes
  TrainingSet train_set;
  TrainingSet held_out;
  std::unique_ptr<LoadedGenerator> base;  // of recipes that train a generator
  std::unique_ptr<SequenceRenderer> renderer;
  std::unique_ptr<Recipe> recipe;
  std::unique_ptr<RunLog> log;  // null where another rank writes
  std::vector<DataFileRecord> data_files;
  std::deque<double> recent_losses;
  std::string stop_reason;                                   // of the last step; empty: go on
  double best_eval_loss = 0.0;                               // 0: none yet
  std::vector<std::pair<std::string, double>> eval_figures;  // of the last evaluation
  int64_t evaluated_at = -1;                                 // step of the last evaluation
};

FinetuneRun::FinetuneRun(const FinetuneConfig& config, ProcessGroup* group) {
  saying_goodbye(group, [&] {
    check_config(config);
    impl_ = std::make_unique<Impl>(config, group);
  });
}

FinetuneRun::~FinetuneRun() = default;

FinetunePlan FinetuneRun::plan() {
  Impl& run = *impl_;
  Recipe& recipe = *run.recipe;
  QUARRY_CHECK(run.take_batch(), ErrorCode::kInvalidArgument,
               "the training data gave no sequence:\n", to_text(recipe.summary()));
  TrainingShape shape = recipe.shape();
  FinetunePlan plan;
  plan.first_batch = recipe.summary();
  plan.examples = recipe.examples(2);
  const auto start = Clock::now();
  plan.first_step = recipe.learn_batch(1e-3);  // the adapter is thrown away
  plan.step_seconds = seconds_since(start);
  // The largest pass that the run will have, as far as its first batches tell.
  constexpr int64_t kBatchesSeen = 16;
  plan.steps = run.planned_steps();
  for (int64_t i = 1; i < std::min(plan.steps, kBatchesSeen) && run.take_batch(); ++i) {
    shape.tokens = std::max(shape.tokens, recipe.shape().tokens);
  }
  plan.count = shape.count;
  plan.notices = recipe.notices();
  plan.base_model = recipe.base_name();
  plan.rows = static_cast<int64_t>(run.train_set.rows.size());
  plan.pass_rows = shape.tokens;
  plan.memory = estimate_training(shape);
  return plan;
}

FinetuneOutcome FinetuneRun::train(bool resume, const FinetuneEvents& events) {
  Impl& run = *impl_;
  try {
    return saying_goodbye(run.group, [&] { return run.train(resume, events); });
  } catch (const LostRankError& lost) {
    const auto checkpoint = latest_checkpoint(run.config.output_dir);
    throw LostRankError(concat("step ", run.recipe->steps_taken() + 1, ": ", lost.what(), "; ",
                               checkpoint ? checkpoint->string() : "no checkpoint",
                               " is there: the same command with --resume ",
                               checkpoint ? "continues from it" : "begins anew"));
  }
}

FinetuneOutcome FinetuneRun::Impl::train(bool resume, const FinetuneEvents& events) {
  const auto start = Clock::now();
  const std::filesystem::path folder = config.output_dir;
  const auto checkpoint = agree_on_checkpoint(resume);
  if (checkpoint) {
    load(*checkpoint);
    if (events.note) events.note("continuing from " + checkpoint->string());
  }
  for (const std::string& notice : recipe->notices()) {
    if (events.note) events.note("note: " + notice);
  }
  if (writes()) {
    write_file_atomically(config_path(), to_yaml(config));
    log = std::make_unique<RunLog>(folder, checkpoint ? recipe->steps_taken() : -1);
    write_environment(folder, QUARRY_VERSION, data_files);
  }
  FinetuneOutcome outcome;
  outcome.steps = recipe->steps_taken();
  take_steps(events, outcome);
  evaluate(events);
  save(events);
  if (writes()) leave_adapters(outcome);
  if (group != nullptr) group->barrier();  // nobody ends well before the adapters are there
  outcome.best_eval_loss = best_eval_loss;
  outcome.eval_figures = eval_figures;
  outcome.data = recipe->summary();
  outcome.seconds = seconds_since(start);
  if (!recent_losses.empty()) {
    outcome.train_loss = std::accumulate(recent_losses.begin(), recent_losses.end(), 0.0) /
                         static_cast<double>(recent_losses.size());
  }
  return outcome;
}

void FinetuneRun::Impl::take_steps(const FinetuneEvents& events, FinetuneOutcome& outcome) {
  const int64_t num_steps = planned_steps();
  int64_t epoch = recipe->epoch();
  const auto more = [&] {
    return config.training.max_steps == 0 || recipe->steps_taken() < num_steps;
  };
  while (more() && one_step(num_steps, events, outcome)) {
    const bool epoch_ended = recipe->epoch() != std::exchange(epoch, recipe->epoch());
    if (config.training.eval_every > 0 ? is_due(config.training.eval_every) : epoch_ended) {
      evaluate(events);
    }
    const bool cancelled = on_any_rank(events.cancel != nullptr && events.cancel->cancelled());
    const bool ends = cancelled || !stop_reason.empty();
    if (ends || is_due(config.training.save_every)) save(events);
    QUARRY_CHECK(!cancelled, ErrorCode::kUnavailable,
                 "training: cancelled; the same command with --resume goes on");
    if (!stop_reason.empty() && more()) throw_stopped();
  }
}

void FinetuneRun::Impl::throw_stopped() const {
  const auto checkpoint = latest_checkpoint(config.output_dir);
  throw_error(ErrorCode::kInternal, stop_reason, "; ",
              checkpoint ? checkpoint->string() : "no checkpoint",
              " is there: --resume with --set rag.stop_on_collapse=false goes on all the same");
}

void FinetuneRun::Impl::leave_adapters(FinetuneOutcome& outcome) const {
  const std::filesystem::path folder = config.output_dir;
  const SavedAdapters last = save_adapters("last", outcome.steps);
  outcome.last_adapter = last.generator;
  outcome.last_query_adapter = last.query_encoder;
  log->write_loss_curve("Fine-tuning " + recipe->base_name());
  const auto best_of = [&](const std::filesystem::path& path, const char* name) {
    return path.empty() || best_eval_loss == 0.0 ? path : folder / name;
  };
  outcome.best_adapter = best_of(last.generator, "best");
  outcome.best_query_adapter = best_of(last.query_encoder, "best-query-encoder");
  outcome.next_command = recipe->next_command({outcome.best_adapter, outcome.best_query_adapter});
}

}  // namespace quarry
