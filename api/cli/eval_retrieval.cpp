#include "api/cli/eval.h"

#include <fstream>
#include <iostream>
#include <memory>

#include "api/cli/options.h"
#include "data/core/error.h"
#include "data/core/paths.h"
#include "data/datasets/dataset.h"
#include "retriever/eval_retrieval.h"

namespace quarry::cli {
namespace {

struct RetrievalArguments {
  std::string index;
  std::string questions;
  std::string qrels;
  std::string dataset = "auto";
  std::string match = "auto";
  EmbedderFlags embedder;
  std::string output;
  int64_t limit = 0;
  SearchFlags search;
  RetrievalEvalOptions options;
  bool as_json = false;
};

void write_rows(const std::string& path, const RetrievalReport& report) {
  std::string lines;
  for (const RetrievalRow& row : report.rows) {
    lines += dump_json(OrderedJson{{"qid", row.qid},
                                   {"first_rank", row.first_rank},
                                   {"mrr", row.mrr},
                                   {"ndcg", row.ndcg},
                                   {"ranking", row.ranking}}) +
             "\n";
  }
  write_file_atomically(path, lines);
}

void print_report(const RetrievalArguments& arguments, const RetrievalReport& report) {
  if (arguments.as_json) {
    OrderedJson json;
    json["questions"] = report.rows.size();
    json["mode"] = arguments.search.mode;
    json["seconds"] = report.seconds;
    for (const RetrievalMetric& metric : report.metrics) {
      json["metrics"][metric.name] = to_json(metric.estimate);
    }
    print_json(json);
    return;
  }
  std::cout << report.rows.size() << " questions, " << arguments.search.mode << ", "
            << report.seconds << " s (95 % intervals from 1,000 resamples)\n";
  for (const RetrievalMetric& metric : report.metrics) print_estimate(metric.name, metric.estimate);
}

void evaluate(RetrievalArguments arguments, CommandContext& context) {
  DatasetSource source;
  source.questions = arguments.questions;
  source.qrels = arguments.qrels;
  std::vector<QaExample> examples = read_dataset(arguments.dataset, source);
  if (arguments.limit > 0 && static_cast<size_t>(arguments.limit) < examples.size()) {
    examples.resize(static_cast<size_t>(arguments.limit));
  }
  arguments.options.search = to_search_options(arguments.search);
  arguments.options.match = parse_gold_match(arguments.match);
  const bool lexical = arguments.options.search.mode == SearchMode::kLexical;
  const OpenedIndex opened = open_index(arguments.index, !lexical, arguments.embedder);
  const std::shared_ptr<const Reranker> reranker = load_reranker(arguments.search);
  const RetrievalReport report = evaluate_retrieval(
      *opened.retriever, opened.embedder.get(), reranker.get(), examples, arguments.options,
      [&](int64_t done) {
        if (!context.quiet && done % 1000 == 0) {
          std::cerr << done << " of " << examples.size() << " questions\n";
        }
      },
      *context.cancel);
  if (!arguments.output.empty()) write_rows(arguments.output, report);
  print_report(arguments, report);
}

}  // namespace

void add_eval_retrieval_command(CLI::App& eval, CommandContext& context) {
  auto arguments = std::make_shared<RetrievalArguments>();
  arguments->search.top_k = 20;
  CLI::App* command =
      eval.add_subcommand("retrieval", "R@k, MRR and nDCG@10 of an index on questions with gold");
  command->add_option("INDEX", arguments->index, "Folder made by quarry index build")->required();
  command->add_option("QUESTIONS", arguments->questions, "Questions: a file, or a BEIR folder")
      ->required();
  command->add_option("--qrels", arguments->qrels, "Relevance judgements, TREC or BEIR format");
  command->add_option("--dataset", arguments->dataset, dataset_names_help())->capture_default_str();
  command
      ->add_option("--match", arguments->match,
                   "What counts as found: document, passage-id, text or auto")
      ->check(CLI::IsMember({"auto", "document", "passage-id", "text"}))
      ->capture_default_str();
  command->add_option("--limit", arguments->limit, "Only the first N questions; 0: all")
      ->check(kNonNegative);
  command->add_option("--output", arguments->output,
                      "Keep each question's outcome in this JSONL file");
  add_embedder_flags(*command, arguments->embedder);
  add_search_flags(*command, arguments->search);
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->footer(
      "Examples\n"
      "  quarry eval retrieval squad.idx dev.questions.jsonl\n"
      "  quarry eval retrieval scifact.idx queries.tsv --qrels qrels.txt --mode hybrid --json");
  command->callback([arguments, &context] { evaluate(*arguments, context); });
}

}  // namespace quarry::cli
