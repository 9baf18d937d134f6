// Speed of training: LoRA on every Linear of the frozen base, AdamW.
//   train_bench [--model M] [--batches FILE.jsonl] [--adapter DIR] [--rank R] [--steps N]
//               [--learning-rate X] [--rows N] [--compute bf16|f32] [--checkpoint]
// A line of FILE is one batch: a list of {"tokens": [...], "targets": n}, the last n tokens being
// targets; without FILE, four sequences of 512 random tokens with 32 targets. Prints one JSON
// object a step, then the median and the peak memory of the process.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "data/core/json.h"
#include "finetune/trainer.h"
#include "generator/nn/lora_config.h"
#include "generator/weights/model_catalog.h"
#include "tests/bench/bench_util.h"

namespace {

using quarry::TrainingSequence;

struct Options {
  std::string model = quarry::kDefaultGenerator;
  std::string batches;
  std::string adapter;
  std::string compute = "bf16";
  int64_t rank = 8;
  int64_t steps = 5;
  int64_t rows = 512;
  double learning_rate = 5e-4;
  bool checkpoint = false;
};

// Largest resident memory of this program. (getrusage would count what the parent process had.)
double peak_megabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stod(line.substr(6)) / 1024.0;
  }
  return 0.0;
}

TrainingSequence make_sequence(std::vector<int32_t> tokens, size_t targets) {
  TrainingSequence sequence;
  sequence.id = "bench";
  sequence.is_target.assign(tokens.size(), 0);
  std::fill(sequence.is_target.end() - static_cast<int64_t>(targets), sequence.is_target.end(), 1);
  sequence.tokens = std::move(tokens);
  return sequence;
}

std::vector<TrainingSequence> random_batch(int64_t vocab) {
  std::vector<TrainingSequence> batch;
  uint32_t state = 1;
  for (int i = 0; i < 4; ++i) {
    std::vector<int32_t> tokens;
    for (int t = 0; t < 513; ++t) {
      state = state * 1664525u + 1013904223u;
      tokens.push_back(static_cast<int32_t>(state % static_cast<uint32_t>(vocab)));
    }
    batch.push_back(make_sequence(std::move(tokens), 32));
  }
  return batch;
}

std::vector<std::vector<TrainingSequence>> read_batches(const std::string& path) {
  std::vector<std::vector<TrainingSequence>> batches;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    batches.emplace_back();
    for (const auto& row : quarry::Json::parse(line)) {
      batches.back().push_back(make_sequence(row.at("tokens").get<std::vector<int32_t>>(),
                                             row.at("targets").get<size_t>()));
    }
  }
  return batches;
}

struct Adapter {
  quarry::LoraConfig config;
  std::unique_ptr<quarry::LoraAdapter> weights;
};

Adapter make_adapter(const Options& options, const quarry::CausalLm& model) {
  if (!options.adapter.empty()) {
    return {
        quarry::LoraConfig::load(std::filesystem::path(options.adapter) / "adapter_config.json"),
        quarry::LoraAdapter::load(options.adapter, model)};
  }
  quarry::LoraSettings settings;
  settings.r = options.rank;
  settings.target_all_linear = true;
  auto config = quarry::LoraConfig::from_settings(settings);
  auto weights = quarry::create_adapter(config, model.linear_slots(), "true", 1);
  return {std::move(config), std::move(weights)};
}

void run(const Options& options) {
  const auto loaded = quarry::load_generator(options.model, quarry::kernels::Precision::kFast);
  const auto batches = options.batches.empty()
                           ? std::vector<std::vector<TrainingSequence>>{random_batch(
                                 loaded.model->config().vocab_size)}
                           : read_batches(options.batches);
  const Adapter adapter = make_adapter(options, *loaded.model);
  const auto optimizer = quarry::make_optimizer(quarry::OptimizerKind::kAdamW);
  quarry::TrainerOptions trainer_options;
  trainer_options.micro_batch_tokens = options.rows;
  trainer_options.max_grad_norm = 0.0;
  trainer_options.gradient.checkpoint_layers = options.checkpoint;
  if (options.compute == "f32") {
    trainer_options.gradient.compute = quarry::GradientOptions::Compute::kFloat32;
  }
  quarry::Trainer trainer(*loaded.model, adapter.config, *adapter.weights, *optimizer,
                          trainer_options);
  std::vector<double> rates;
  for (int64_t step = 0; step < options.steps; ++step) {
    const double start = quarry::bench::seconds_now();
    const auto result =
        trainer.step(batches[static_cast<size_t>(step) % batches.size()], options.learning_rate);
    rates.push_back(static_cast<double>(result.tokens) / (quarry::bench::seconds_now() - start));
    std::printf("{\"step\": %lld, \"loss\": %.6f, \"tokens_per_second\": %.1f}\n",
                static_cast<long long>(result.step), result.loss, rates.back());
    std::fflush(stdout);
  }
  std::sort(rates.begin(), rates.end());
  std::printf("{\"median_tokens_per_second\": %.1f, \"peak_mb\": %.0f}\n", rates[rates.size() / 2],
              peak_megabytes());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Speed of training");
  app.add_option("--model", options.model);
  app.add_option("--batches", options.batches);
  app.add_option("--adapter", options.adapter);
  app.add_option("--rank", options.rank);
  app.add_option("--steps", options.steps);
  app.add_option("--learning-rate", options.learning_rate);
  app.add_option("--rows", options.rows, "Rows of one pass");
  app.add_option("--compute", options.compute);
  app.add_flag("--checkpoint", options.checkpoint);
  CLI11_PARSE(app, argc, argv);
  run(options);
  return 0;
}
