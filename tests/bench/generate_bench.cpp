// Speed of a generator: prefill of a prompt and decoding after it, one sequence or a batch.
//   generate_bench [MODEL] [exact|fast|fast8] [PROMPT_TOKENS] [DECODE_TOKENS] [BATCH] [ROUNDS]
//                  [LOAD_IN] [none|ADAPTER[,ADAPTER...]] [cpu|cuda]
// Prints tokens a second, medians of ROUNDS (5), and what a plain loop reads a second. Sequences of
// a batch share several adapters out between them; each round then runs without adapters too, and
// how much longer the adapters take is the median over the rounds.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

#include "data/core/parallel_for.h"
#include "generator/kernels/aligned_buffer.h"
#include "generator/kernels/elementwise.h"
#include "generator/models/causal_lm.h"
#include "generator/nn/kv_cache.h"
#include "generator/nn/lora.h"
#include "generator/weights/model_catalog.h"
#include "tests/bench/bench_util.h"

namespace {

using quarry::CausalLm;
using quarry::SequenceChunk;

struct Options {
  std::string model = quarry::kDefaultGenerator;
  std::string precision = "fast";
  int64_t prompt_tokens = 512;
  int64_t decode_tokens = 64;
  int64_t batch = 1;
  int rounds = 5;
  std::string load_in = "as-is";
  std::vector<std::string> adapters;
  bool on_cuda = false;
};

// Wall and CPU seconds. The CPU time of one thread (OMP_NUM_THREADS=1) is what to trust on a shared
// machine.
struct Span {
  double wall = 0.0;
  double cpu = 0.0;
};

class Stopwatch {
 public:
  Span elapsed() const {
    return {quarry::bench::seconds_now() - wall_, quarry::bench::cpu_seconds_now() - cpu_};
  }

 private:
  double wall_ = quarry::bench::seconds_now();
  double cpu_ = quarry::bench::cpu_seconds_now();
};

struct Round {
  Span prefill;
  Span decode;
};

using Adapters = std::vector<std::unique_ptr<quarry::LoraAdapter>>;

Round run_round(const CausalLm& model, const Options& options, const Adapters& adapters) {
  const int64_t vocab = model.config().vocab_size;
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < options.prompt_tokens; ++i) {
    prompt.push_back(static_cast<int32_t>((i * 7919 + 17) % vocab));
  }
  std::vector<std::unique_ptr<quarry::KvCache>> caches;
  std::vector<SequenceChunk> chunks;
  for (int64_t i = 0; i < options.batch; ++i) {
    caches.push_back(model.make_cache());
    SequenceChunk chunk;
    chunk.tokens = prompt.data();
    chunk.num_tokens = options.prompt_tokens;
    chunk.cache = caches.back().get();
    if (!adapters.empty()) {
      const int64_t which = i * static_cast<int64_t>(adapters.size()) / options.batch;
      chunk.adapter = adapters[static_cast<size_t>(which)].get();
    }
    chunks.push_back(chunk);
  }
  Round round;
  const Stopwatch prefill_watch;
  std::vector<float> logits = model.forward(chunks);
  round.prefill = prefill_watch.elapsed();
  std::vector<int32_t> next(chunks.size());
  const Stopwatch decode_watch;
  for (int64_t step = 0; step < options.decode_tokens; ++step) {
    for (size_t i = 0; i < chunks.size(); ++i) {
      next[i] = static_cast<int32_t>(
          quarry::kernels::argmax(logits.data() + static_cast<int64_t>(i) * vocab, vocab));
      chunks[i].tokens = &next[i];
      chunks[i].num_tokens = 1;
    }
    model.forward_into(chunks, logits);
  }
  round.decode = decode_watch.elapsed();
  return round;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<std::string> split_at_commas(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

// Tokens a second of each round.
class Rates {
 public:
  explicit Rates(const Options& options) : options_(options) {}
  void add(const Round& round) {
    prefill_.push_back(prefill_tokens() / round.prefill.wall);
    prefill_cpu_.push_back(prefill_tokens() / round.prefill.cpu);
    decode_.push_back(decode_tokens() / round.decode.wall);
    decode_cpu_.push_back(decode_tokens() / round.decode.cpu);
  }
  void print() const {
    std::printf("prefill %lld x %lld: %.1f tok/s (%.1f a CPU second)   ",
                static_cast<long long>(options_.prompt_tokens),
                static_cast<long long>(options_.batch), median(prefill_), median(prefill_cpu_));
    std::printf("decode %lld: %.1f tok/s (%.1f a CPU second)\n",
                static_cast<long long>(options_.decode_tokens), median(decode_),
                median(decode_cpu_));
  }
  // Medians of how much longer these rounds took than those of `base`, each beside its own.
  void print_overhead(const Rates& base) const {
    const auto percent = [](const std::vector<double>& without, const std::vector<double>& with) {
      std::vector<double> longer;
      for (size_t i = 0; i < with.size(); ++i) longer.push_back(100.0 * (without[i] / with[i] - 1));
      return median(longer);
    };
    std::printf("adapters take longer by: prefill %+.1f %%, decode %+.1f %%",
                percent(base.prefill_, prefill_), percent(base.decode_, decode_));
    std::printf("   (CPU time: %+.1f %%, %+.1f %%)\n", percent(base.prefill_cpu_, prefill_cpu_),
                percent(base.decode_cpu_, decode_cpu_));
  }

 private:
  double prefill_tokens() const {
    return static_cast<double>(options_.batch * options_.prompt_tokens);
  }
  double decode_tokens() const {
    return static_cast<double>(options_.batch * options_.decode_tokens);
  }

  const Options& options_;
  std::vector<double> prefill_, prefill_cpu_, decode_, decode_cpu_;
};

// GB/s that all threads together read with a plain loop, from memory far larger than the caches.
double read_bandwidth() {
  constexpr int64_t kWords = int64_t{64} << 20;
  const quarry::kernels::AlignedBuffer buffer(kWords * 8);
  auto* words = reinterpret_cast<uint64_t*>(buffer.data());
  std::fill(words, words + kWords, uint64_t{1});
  std::atomic<uint64_t> total{0};
  const quarry::bench::Timing timing = quarry::bench::time_calls(
      [&] {
        quarry::parallel_for(kWords, 1 << 20, [&](int64_t begin, int64_t end) {
          uint64_t sum = 0;
          for (int64_t i = begin; i < end; ++i) sum += words[i];
          total += sum;
        });
      },
      3, 0.01);
  return static_cast<double>(kWords) * 8.0 / timing.best / 1e9;
}

void run(const Options& options) {
  using quarry::kernels::Precision;
  const auto precision = options.precision == "exact"   ? Precision::kExact
                         : options.precision == "fast8" ? Precision::kFast8
                                                        : Precision::kFast;
  const Stopwatch load_watch;
  quarry::GeneratorOptions load_options;
  load_options.precision = precision;
  load_options.weights.load_in = quarry::parse_load_in(options.load_in);
  if (options.on_cuda) load_options.device = quarry::Device::kCuda;
  const quarry::LoadedGenerator loaded = quarry::load_generator(options.model, load_options);
  std::printf("%s, %s, %d threads%s, loaded in %.2f s\n", loaded.name.c_str(),
              options.precision.c_str(), quarry::num_threads(), options.on_cuda ? " and CUDA" : "",
              load_watch.elapsed().wall);
  Adapters adapters;
  for (const std::string& folder : options.adapters) {
    adapters.push_back(quarry::LoraAdapter::load(folder, *loaded.model));
  }
  Rates rates(options);
  Rates base_rates(options);
  for (int round = 0; round < options.rounds; ++round) {
    if (!adapters.empty()) base_rates.add(run_round(*loaded.model, options, {}));
    rates.add(run_round(*loaded.model, options, adapters));
  }
  rates.print();
  if (!adapters.empty()) rates.print_overhead(base_rates);
  if (options.batch == 1) std::printf("a plain loop reads %.1f GB/s\n", read_bandwidth());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (argc > 1) options.model = argv[1];
  if (argc > 2) options.precision = argv[2];
  if (argc > 3) options.prompt_tokens = std::stoll(argv[3]);
  if (argc > 4) options.decode_tokens = std::stoll(argv[4]);
  if (argc > 5) options.batch = std::stoll(argv[5]);
  if (argc > 6) options.rounds = std::stoi(argv[6]);
  if (argc > 7) options.load_in = argv[7];
  if (argc > 8 && std::string(argv[8]) != "none") options.adapters = split_at_commas(argv[8]);
  if (argc > 9) options.on_cuda = std::string(argv[9]) == "cuda";
  try {
    run(options);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "generate_bench: %s\n", error.what());
    return 1;
  }
}
