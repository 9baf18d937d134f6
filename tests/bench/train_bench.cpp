// Speed of a gradient step: B sequences of T random tokens, the last N of each being targets, LoRA
// on every Linear of the frozen base, one sequence a pass.
//   train_bench [MODEL] [B] [T] [TARGETS] [RANK] [STEPS] [bf16|f32] [checkpoint]
// Prints tokens a second of each step, the median and the peak memory of the process.
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "generator/models/causal_lm.h"
#include "generator/nn/lora_config.h"
#include "generator/nn/lora_training.h"
#include "generator/weights/model_catalog.h"
#include "tests/bench/bench_util.h"

namespace {

using quarry::TokenTree;

TokenTree random_sequence(int64_t length, int64_t targets, int64_t vocab, uint32_t seed) {
  TokenTree tree;
  for (int64_t i = 0; i <= length; ++i) {
    seed = seed * 1664525u + 1013904223u;
    const int32_t token = static_cast<int32_t>(seed % static_cast<uint32_t>(vocab));
    if (i > length - targets) tree.targets.push_back({i - 1, token, 1.0f});
    if (i == length) break;
    tree.tokens.push_back(token);
    tree.positions.push_back(static_cast<int32_t>(i));
  }
  for (TokenTree::Target& target : tree.targets) {
    target.weight = 1.0f / static_cast<float>(targets);
  }
  tree.segments = {{0, length, -1}};
  return tree;
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int index, const char* fallback) {
    return std::string(argc > index ? argv[index] : fallback);
  };
  const std::string model = argument(1, quarry::kDefaultGenerator);
  const int64_t batch = std::atoll(argument(2, "4").c_str());
  const int64_t length = std::atoll(argument(3, "512").c_str());
  const int64_t targets = std::atoll(argument(4, "32").c_str());
  const int64_t steps = std::atoll(argument(6, "5").c_str());
  const auto loaded = quarry::load_generator(model, quarry::kernels::Precision::kFast);
  quarry::LoraSettings settings;
  settings.r = std::atoll(argument(5, "8").c_str());
  settings.target_all_linear = true;
  const auto config = quarry::LoraConfig::from_settings(settings);
  const auto adapter = quarry::create_adapter(config, loaded.model->linear_slots(), "true", 1);
  quarry::LoraGradients gradients(*adapter);
  quarry::GradientOptions options;
  if (argument(7, "bf16") == "f32") options.compute = quarry::GradientOptions::Compute::kFloat32;
  options.checkpoint_layers = argument(8, "") == "checkpoint";
  std::vector<double> seconds;
  for (int64_t step = 0; step < steps; ++step) {
    const double start = quarry::bench::seconds_now();
    double loss = 0.0;
    gradients.zero();
    for (int64_t i = 0; i < batch; ++i) {
      const TokenTree tree = random_sequence(length, targets, loaded.model->config().vocab_size,
                                             static_cast<uint32_t>(i + 1));
      for (const float value :
           loaded.model->accumulate_gradients(tree, *adapter, options, gradients)) {
        loss += value;
      }
    }
    for (auto& [path, weights] : adapter->mutable_weights()) {  // plain gradient descent
      const quarry::LoraGradients::Pair& gradient = gradients.at(path);
      for (size_t j = 0; j < weights.a.size(); ++j) weights.a[j] -= 1e-3f * gradient.a[j];
      for (size_t j = 0; j < weights.b.size(); ++j) weights.b[j] -= 1e-3f * gradient.b[j];
      weights.pack();
    }
    seconds.push_back(quarry::bench::seconds_now() - start);
    std::printf("step %lld  loss %.4f  %.0f tokens/s\n", static_cast<long long>(step + 1),
                loss / static_cast<double>(batch * targets),
                static_cast<double>(batch * length) / seconds.back());
  }
  std::sort(seconds.begin(), seconds.end());
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("median %.0f tokens/s, peak %.0f MB\n",
              static_cast<double>(batch * length) / seconds[seconds.size() / 2],
              static_cast<double>(usage.ru_maxrss) / 1024.0);
  return 0;
}
