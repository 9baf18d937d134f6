#include <algorithm>
#include <atomic>
#include <iostream>
#include <map>
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
#include "finetune/data/training_set.h"
#include "generator/decode/random.h"
#include "generator/prompt.h"

namespace quarry::cli {
namespace {

struct AnswersArguments {
  std::string questions;
  std::string dataset = "auto";
  std::string index;
  std::string predictions;
  std::string adapter;
  std::string output;
  std::string passages = "index";
  int64_t limit = 0;
  int64_t sample = 0;
  uint64_t sample_seed = 1;
  GeneratorFlags generator;
  SamplingFlags sampling;
  SearchFlags search;
  DecodeFlags decode;
  EmbedderFlags embedder;
  double refusal_bias = 0.0;
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

// Each question's own passage, by question id.
std::map<std::string, Hit> read_gold_passages(const AnswersArguments& arguments) {
  const TrainingSet set = read_training_set({{arguments.questions, "auto"}}, {});
  std::map<std::string, Hit> gold;
  for (const TrainingRow& row : set.rows) {
    if (row.gold >= 0) gold[row.id].passage = set.passages[static_cast<size_t>(row.gold)];
  }
  return gold;
}

// Asks every question, several at a time so that the engine has a batch to step.
std::vector<std::string> ask_all(const AnswersArguments& arguments,
                                 const std::vector<QaExample>& examples, CommandContext& context) {
  AskOptions options;
  options.search = to_search_options(arguments.search);
  options.max_tokens = arguments.sampling.max_tokens;
  options.sampling = arguments.sampling.sampling;
  options.stop = arguments.sampling.stop;
  options.refusal_bias = arguments.refusal_bias;
  set_decoding(arguments.decode, options);
  const bool use_gold = arguments.passages == "gold";
  const std::map<std::string, Hit> gold =
      use_gold ? read_gold_passages(arguments) : std::map<std::string, Hit>();
  const OpenedIndex opened =
      use_gold ? OpenedIndex() : open_index(arguments.index, true, arguments.embedder);
  const auto engine = std::make_shared<Engine>(load_generator(arguments.generator),
                                               to_engine_options(arguments.generator));
  options.adapter = load_adapter(arguments.adapter, *engine);
  const Pipeline pipeline(opened.retriever, opened.embedder, engine,
                          load_reranker(arguments.search));

  const size_t asked_at_once = engine->generator()->device == Device::kCuda ? 32 : 8;
  std::vector<std::string> answers(examples.size());
  std::atomic<size_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr first_error;
  const auto work = [&] {
    try {
      for (size_t i = next++; i < examples.size() && !context.cancel->cancelled(); i = next++) {
        const QaExample& example = examples[i];
        const auto own = gold.find(example.qid);
        QUARRY_CHECK(!use_gold || own != gold.end(), ErrorCode::kInvalidArgument,
                     arguments.questions, ": question '", example.qid,
                     "' has no passage of its own, wanted \"passage\" (its text)");
        const std::vector<ChatMessage> messages = {{"user", example.question}};
        answers[i] = use_gold ? pipeline.answer_from({own->second}, messages, options, nullptr).text
                              : pipeline.ask(messages, options, nullptr).text;
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
  for (size_t i = 0; i < asked_at_once; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (first_error) std::rethrow_exception(first_error);
  context.cancel->check("evaluation");
  return answers;
}

// The first `count` of a shuffle by `seed`.
void draw_sample(int64_t count, uint64_t seed, std::vector<QaExample>& examples) {
  SplitMix64 random(seed);
  const size_t kept = std::min(static_cast<size_t>(count), examples.size());
  for (size_t i = 0; i < kept; ++i) {
    std::swap(examples[i], examples[i + random.next() % (examples.size() - i)]);
  }
  examples.resize(kept);
}

// Share of answers that say that the documents do not hold the answer.
std::vector<double> abstentions(const std::vector<std::string>& answers) {
  std::vector<double> abstained;
  for (const std::string& answer : answers) {
    const bool says_so =
        answer == kNotInDocuments || answer == default_rag_template().not_in_documents;
    abstained.push_back(says_so ? 100.0 : 0.0);
  }
  return abstained;
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
  const Estimate abstained = bootstrap_mean(abstentions(answers));
  if (arguments.as_json) {
    OrderedJson json;
    json["questions"] = examples.size();
    json["em"] = to_json(em_mean);
    json["f1"] = to_json(f1_mean);
    json["not_in_documents"] = to_json(abstained);
    print_json(json);
    return;
  }
  std::cout << examples.size() << " questions (95 % intervals from 1,000 resamples)\n";
  print_estimate("EM", em_mean);
  print_estimate("F1", f1_mean);
  print_estimate("not in the documents", abstained);
}

void evaluate(const AnswersArguments& arguments, CommandContext& context) {
  const int sources = static_cast<int>(!arguments.index.empty()) +
                      static_cast<int>(!arguments.predictions.empty()) +
                      static_cast<int>(arguments.passages == "gold");
  QUARRY_CHECK(sources == 1, ErrorCode::kInvalidArgument,
               "eval answers: give one of --index or --passages gold to ask the questions, or "
               "--predictions to score a file");
  DatasetSource source;
  source.questions = arguments.questions;
  std::vector<QaExample> examples = read_dataset(arguments.dataset, source);
  const auto unanswerable = [](const QaExample& example) { return example.answers.empty(); };
  QUARRY_CHECK(!std::all_of(examples.begin(), examples.end(), unanswerable),
               ErrorCode::kInvalidArgument, arguments.questions,
               ": no question has an answer to compare with");
  if (arguments.sample > 0) draw_sample(arguments.sample, arguments.sample_seed, examples);
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
  command
      ->add_option("--passages", arguments->passages,
                   "Where passages come from: index (a search), gold (each question's own)")
      ->check(CLI::IsMember({"index", "gold"}))
      ->capture_default_str();
  command->add_option("--sample", arguments->sample, "N questions drawn at random; 0: all")
      ->check(kNonNegative);
  command->add_option("--sample-seed", arguments->sample_seed, "Of the draw")
      ->capture_default_str();
  command->add_option("--limit", arguments->limit, "Only the first N questions; 0: all")
      ->check(kNonNegative);
  add_adapter_flag(*command, arguments->adapter);
  add_generator_flags(*command, arguments->generator);
  add_sampling_flags(*command, arguments->sampling);
  add_search_flags(*command, arguments->search);
  add_decode_flags(*command, arguments->decode);
  add_embedder_flags(*command, arguments->embedder);
  add_refusal_bias_flag(*command, arguments->refusal_bias);
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->footer(
      "Examples\n"
      "  quarry eval answers dev.jsonl --index squad.idx --limit 200 --output answers.json\n"
      "  quarry eval answers dev.jsonl --predictions answers.json --json");
  command->callback([arguments, &context] { evaluate(*arguments, context); });
}

}  // namespace quarry::cli
