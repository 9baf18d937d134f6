#include <algorithm>
#include <atomic>
#include <iostream>
#include <memory>
#include <mutex>
#include <thread>

#include "api/cli/eval.h"
#include "api/cli/options.h"
#include "data/core/error.h"
#include "data/core/paths.h"
#include "data/datasets/dataset.h"
#include "data/metrics/answer_metrics.h"
#include "data/metrics/bootstrap.h"

namespace quarry::cli {
namespace {

struct AnswersArguments {
  std::string questions;
  std::string dataset = "auto";
  std::string index;
  std::string predictions;
  std::string adapter;
  std::string output;
  int64_t limit = 0;
  GeneratorFlags generator;
  SamplingFlags sampling;
  SearchFlags search;
  bool as_json = false;
};

// qid -> answer, SQuAD's prediction file.
std::vector<std::string> read_predictions(const std::string& path,
                                          const std::vector<QaExample>& examples) {
  const Json file = read_json_file(path);
  QUARRY_CHECK(file.is_object(), ErrorCode::kCorruptData, path,
               ": want an object {question id: answer}, found ", file.type_name());
  std::vector<std::string> answers;
  int64_t missing = 0;
  for (const QaExample& example : examples) {
    const auto found = file.find(example.qid);
    if (found == file.end()) {
      ++missing;
      answers.emplace_back();
      continue;
    }
    QUARRY_CHECK(found->is_string(), ErrorCode::kCorruptData, path, ": the answer to '",
                 example.qid, "' is not a string but ", found->type_name());
    answers.push_back(found->get<std::string>());
  }
  if (missing > 0) {
    std::cerr << "warning: " << missing << " of " << examples.size()
              << " questions have no prediction and score 0\n";
  }
  return answers;
}

// Asks every question, several at a time so that the engine has a batch to step.
std::vector<std::string> ask_all(const AnswersArguments& arguments,
                                 const std::vector<QaExample>& examples, CommandContext& context) {
  AskOptions options;
  options.search = to_search_options(arguments.search);
  options.max_tokens = arguments.sampling.max_tokens;
  options.sampling = arguments.sampling.sampling;
  options.stop = arguments.sampling.stop;
  const OpenedIndex opened = open_index(arguments.index, "", true);
  const auto engine =
      std::make_shared<Engine>(load_generator(arguments.generator), EngineOptions{});
  if (!arguments.adapter.empty()) {
    engine->add_adapter("adapter", arguments.adapter);
    options.adapter = "adapter";
  }
  const Pipeline pipeline(opened.retriever, opened.embedder, engine);

  constexpr size_t kAskedAtOnce = 8;
  std::vector<std::string> answers(examples.size());
  std::atomic<size_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr first_error;
  const auto work = [&] {
    try {
      for (size_t i = next++; i < examples.size() && !context.cancel->cancelled(); i = next++) {
        answers[i] = pipeline.ask({{"user", examples[i].question}}, options, nullptr).text;
        if (!context.quiet && (i + 1) % 50 == 0) {
          std::cerr << i + 1 << " of " << examples.size() << " questions\n";
        }
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(error_mutex);
      if (!first_error) first_error = std::current_exception();
      next = examples.size();
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kAskedAtOnce; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (first_error) std::rethrow_exception(first_error);
  context.cancel->check("evaluation");
  return answers;
}

void report(const AnswersArguments& arguments, const std::vector<QaExample>& examples,
            const std::vector<std::string>& answers) {
  std::vector<double> em;
  std::vector<double> f1;
  for (size_t i = 0; i < examples.size(); ++i) {
    em.push_back(100.0 * exact_match(answers[i], examples[i].answers));
    f1.push_back(100.0 * token_f1(answers[i], examples[i].answers));
  }
  const Estimate em_mean = bootstrap_mean(em);
  const Estimate f1_mean = bootstrap_mean(f1);
  if (arguments.as_json) {
    OrderedJson json;
    json["questions"] = examples.size();
    json["em"] = to_json(em_mean);
    json["f1"] = to_json(f1_mean);
    print_json(json);
    return;
  }
  std::cout << examples.size() << " questions (95 % intervals from 1,000 resamples)\n";
  print_estimate("EM", em_mean);
  print_estimate("F1", f1_mean);
}

void evaluate(const AnswersArguments& arguments, CommandContext& context) {
  QUARRY_CHECK(arguments.index.empty() != arguments.predictions.empty(),
               ErrorCode::kInvalidArgument,
               "eval answers: give either --index to ask the questions or --predictions to score a "
               "file");
  DatasetSource source;
  source.questions = arguments.questions;
  std::vector<QaExample> examples = read_dataset(arguments.dataset, source);
  const auto unanswerable = [](const QaExample& example) { return example.answers.empty(); };
  QUARRY_CHECK(!std::all_of(examples.begin(), examples.end(), unanswerable),
               ErrorCode::kInvalidArgument, arguments.questions,
               ": no question has an answer to compare with");
  if (arguments.limit > 0 && static_cast<size_t>(arguments.limit) < examples.size()) {
    examples.resize(static_cast<size_t>(arguments.limit));
  }
  const std::vector<std::string> answers = arguments.predictions.empty()
                                               ? ask_all(arguments, examples, context)
                                               : read_predictions(arguments.predictions, examples);
  if (!arguments.output.empty()) {
    OrderedJson predictions = OrderedJson::object();
    for (size_t i = 0; i < examples.size(); ++i) predictions[examples[i].qid] = answers[i];
    write_file_atomically(arguments.output, dump_json(predictions, 1) + "\n");
  }
  report(arguments, examples, answers);
}

}  // namespace

void add_eval_answers_command(CLI::App& eval, CommandContext& context) {
  auto arguments = std::make_shared<AnswersArguments>();
  arguments->search.top_k = 5;
  arguments->sampling.max_tokens = 64;
  CLI::App* command = eval.add_subcommand(
      "answers", "Exact match and F1 of answers, as SQuAD's script scores them");
  command->add_option("QUESTIONS", arguments->questions, "Questions with answers")->required();
  command->add_option("--dataset", arguments->dataset, dataset_names_help())->capture_default_str();
  command->add_option("--index", arguments->index, "Ask the questions over this index");
  command->add_option("--predictions", arguments->predictions,
                      "Score this JSON file {question id: answer} instead of asking");
  command->add_option("--output", arguments->output, "Keep the answers in this JSON file");
  command->add_option("--limit", arguments->limit, "Only the first N questions; 0: all")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--adapter", arguments->adapter, "PEFT LoRA adapter folder");
  add_generator_flags(*command, arguments->generator);
  add_sampling_flags(*command, arguments->sampling);
  add_search_flags(*command, arguments->search);
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->footer(
      "Examples\n"
      "  quarry eval answers dev.jsonl --index squad.idx --limit 200 --output answers.json\n"
      "  quarry eval answers dev.jsonl --predictions answers.json --json");
  command->callback([arguments, &context] { evaluate(*arguments, context); });
}

}  // namespace quarry::cli
