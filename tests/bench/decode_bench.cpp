// What the engine's prefix cache and prompt lookup bring, each against the same engine without it.
//   decode_bench prefix [MODEL]
//     First-token time of prompts of 1,500 tokens and a short question of their own, the first time
//     and when another one with the same beginning came before: medians of five.
//   decode_bench lookup PASSAGES QUESTIONS [quote|answer|open] [FIRST] [COUNT] [MODEL] [ADAPTER|-]
//                [fast|fast8]
//     Tokens a second after the first token, one request at a time, with and without prompt lookup
//     in turns, over COUNT questions from number FIRST on. quote: asks for the sentence that
//     answers; answer: asks as `quarry ask` does; open: asks the model alone. The texts must be the
//     same. Also how many drafts were checked, and of each how many tokens came true.
#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "data/core/error.h"
#include "data/core/json.h"
#include "generator/decode/engine.h"
#include "generator/decode/prompt_lookup.h"
#include "generator/prompt.h"
#include "generator/weights/model_catalog.h"

namespace quarry {
namespace {

std::shared_ptr<const LoadedGenerator> load(
    const std::string& model, kernels::Precision precision = kernels::Precision::kFast) {
  return std::make_shared<const LoadedGenerator>(load_generator(model, precision));
}

GenerateResult generate(Engine& engine, const GenerateRequest& request) {
  GenerateResult result = engine.submit(request, nullptr).result.get();
  QUARRY_CHECK(result.finish_reason != FinishReason::kError, ErrorCode::kInternal, result.error);
  return result;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void run_prefix(const std::string& model) {
  const auto generator = load(model);
  const int64_t vocab_size = generator->model->config().vocab_size;
  Engine engine(generator, EngineOptions());
  std::vector<double> first;
  std::vector<double> second;
  for (int64_t round = 0; round < 5; ++round) {
    for (int64_t question = 0; question < 2; ++question) {
      GenerateRequest request;
      request.max_tokens = 1;
      for (int64_t i = 0; i < 1500; ++i) {
        request.prompt.push_back(static_cast<int32_t>((i * 7919 + round * 104729) % vocab_size));
      }
      for (int64_t i = 0; i < 16; ++i) {
        request.prompt.push_back(static_cast<int32_t>((i * 31 + question * 977 + 5) % vocab_size));
      }
      const GenerateResult result = generate(engine, request);
      QUARRY_CHECK(result.cached_tokens == question * 1500, ErrorCode::kInternal, "reused ",
                   result.cached_tokens, " tokens");
      (question == 0 ? first : second).push_back(result.prefill_seconds);
    }
  }
  std::printf(
      "1,500 tokens shared and 16 of its own: first token after %.1f ms, then %.1f ms: %.2f %%\n",
      1e3 * median(first), 1e3 * median(second), 100.0 * median(second) / median(first));
}

std::vector<Json> read_lines(const std::string& path) {
  std::ifstream file(path);
  QUARRY_CHECK(file.good(), ErrorCode::kNotFound, path, ": cannot be opened");
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(parse_json(line, path, ErrorCode::kCorruptData));
  }
  return lines;
}

struct LookupOptions {
  std::string passages;
  std::string questions;
  std::string kind = "quote";
  size_t first = 0;
  size_t count = 200;
  std::string model = kDefaultGenerator;
  std::string adapter;  // "-": none
  kernels::Precision precision = kernels::Precision::kFast;
};

std::vector<int32_t> make_prompt(const LoadedGenerator& generator, const std::string& kind,
                                 const std::string& question, const std::string& passage) {
  if (kind == "open") return render_chat(generator, {{"user", question}});
  if (kind == "quote") {
    return render_chat(generator, {{"user", passage +
                                                "\n\nQuote the sentences of this text that "
                                                "answer the question: " +
                                                question}});
  }
  QUARRY_CHECK(kind == "answer", ErrorCode::kInvalidArgument, "unknown kind '", kind, "'");
  Hit hit;
  hit.passage.text = passage;
  RagPromptOptions options;
  options.max_tokens = 2048;
  return build_rag_prompt(generator, default_rag_template(), {{"user", question}}, {hit}, options)
      .tokens;
}

struct Total {
  int64_t tokens = 0;  // after the first of each answer
  double seconds = 0.0;
  double rate() const { return static_cast<double>(tokens) / seconds; }
};

// How often the token after a match comes true, by the length of the match; the last entry holds
// the longer ones.
struct HitRates {
  std::array<int64_t, 8> guesses = {};
  std::array<int64_t, 8> hits = {};

  void count(std::vector<int32_t> history, const std::vector<int32_t>& answer) {
    PromptLookup lookup;
    for (const int32_t token : answer) {
      const PromptLookup::Draft& draft = lookup.propose(history, {}, 1);
      if (draft.matched > 0) {
        const size_t bucket = static_cast<size_t>(std::min<int64_t>(draft.matched, 8)) - 1;
        ++guesses[bucket];
        hits[bucket] += draft.tokens[0] == token;
      }
      history.push_back(token);
    }
  }
  void print() const {
    std::printf("guesses that come true, by tokens matched from 1:");
    for (size_t i = 0; i < guesses.size(); ++i) {
      std::printf(
          " %.2f (%lld)",
          guesses[i] == 0 ? 0.0 : static_cast<double>(hits[i]) / static_cast<double>(guesses[i]),
          static_cast<long long>(guesses[i]));
    }
    std::printf("\n");
  }
};

void run_lookup(const LookupOptions& options) {
  const auto generator = load(options.model, options.precision);
  std::map<std::string, std::string> passages;
  for (const Json& line : read_lines(options.passages)) {
    passages[line.at("pid").get<std::string>()] = line.at("text").get<std::string>();
  }
  const std::vector<Json> questions = read_lines(options.questions);
  EngineOptions without;
  without.prompt_lookup = false;
  Engine plain(generator, without);
  Engine fast(generator, EngineOptions());
  std::string adapter;
  if (options.adapter != "-") {
    adapter = "adapter";
    for (Engine* engine : {&plain, &fast}) engine->adapters().load(adapter, options.adapter);
  }
  Total totals[2];
  size_t num_different = 0;
  HitRates rates;
  const size_t end = std::min(questions.size(), options.first + options.count);
  for (size_t i = options.first; i < end; ++i) {
    GenerateRequest request;
    request.prompt =
        make_prompt(*generator, options.kind, questions[i].at("question").get<std::string>(),
                    passages.at(questions[i].at("pid").get<std::string>()));
    request.max_tokens = 96;
    request.adapter = adapter;
    std::vector<int32_t> tokens[2];
    for (size_t turn = 0; turn < 2; ++turn) {
      const size_t with_lookup = (turn + i) % 2;
      const GenerateResult result = generate(with_lookup == 1 ? fast : plain, request);
      totals[with_lookup].tokens += std::max<int64_t>(0, result.completion_tokens - 1);
      totals[with_lookup].seconds += result.decode_seconds;
      tokens[with_lookup] = result.tokens;
    }
    if (tokens[0] != tokens[1]) ++num_different;
    rates.count(request.prompt, tokens[0]);
  }
  const EngineStats stats = fast.stats();
  const auto mean = [&](int64_t tokens) {
    return static_cast<double>(tokens) /
           static_cast<double>(std::max<int64_t>(1, stats.drafts_total));
  };
  std::printf(
      "%s, questions %zu to %zu: %.1f tok/s without, %.1f with prompt lookup: %.2f times; "
      "%lld tokens, %lld drafts of %.1f tokens, %.1f accepted; %zu texts differ\n",
      options.kind.c_str(), options.first, end, totals[0].rate(), totals[1].rate(),
      totals[1].rate() / totals[0].rate(), static_cast<long long>(totals[1].tokens),
      static_cast<long long>(stats.drafts_total), mean(stats.draft_tokens_total),
      mean(stats.accepted_draft_tokens_total), num_different);
  rates.print();
}

int run(const std::vector<std::string>& arguments) {
  const auto argument = [&](size_t i, const std::string& otherwise) {
    return i < arguments.size() ? arguments[i] : otherwise;
  };
  if (argument(0, "") == "prefix") {
    run_prefix(argument(1, kDefaultGenerator));
    return 0;
  }
  if (argument(0, "") != "lookup" || arguments.size() < 3) {
    std::fprintf(stderr, "decode_bench prefix [MODEL] | lookup PASSAGES QUESTIONS [KIND ...]\n");
    return 2;
  }
  LookupOptions options;
  options.passages = arguments[1];
  options.questions = arguments[2];
  options.kind = argument(3, options.kind);
  options.first = std::stoull(argument(4, "0"));
  options.count = std::stoull(argument(5, "200"));
  options.model = argument(6, options.model);
  options.adapter = argument(7, "-");
  if (argument(8, "fast") == "fast8") options.precision = kernels::Precision::kFast8;
  run_lookup(options);
  return 0;
}

}  // namespace
}  // namespace quarry

int main(int argc, char** argv) {
  try {
    return quarry::run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "decode_bench: %s\n", error.what());
    return 1;
  }
}
