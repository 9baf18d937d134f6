#include <iostream>
#include <memory>

#include "api/answer_json.h"
#include "api/cli/command.h"
#include "api/cli/options.h"
#include "api/logprobs_json.h"
#include "data/core/error.h"

namespace quarry::cli {
namespace {

struct AskArguments {
  std::string index;
  std::string question;
  EmbedderFlags embedder;
  std::string adapter;
  double min_relevance = -1.0;
  GeneratorFlags generator;
  SamplingFlags sampling;
  SearchFlags search;
  DecodeFlags decode;
  double refusal_bias = 0.0;
  BeamSearchOptions beams;
  ConstraintFlags constraint;
  int64_t top_logprobs = -1;
  bool as_json = false;
};

void print_sources(const Answer& answer) {
  if (answer.citations.empty()) return;
  std::cout << "\nSources\n";
  for (const Citation& citation : answer.citations) {
    const Passage& passage = citation.hit.passage;
    std::cout << "  [" << citation.index << "] " << source_label(passage) << "\n      "
              << passage.document_uri << " [" << passage.start << ":" << passage.end << "]\n";
  }
}

// What can be tried after "not in the documents".
std::string refusal_help(const Answer& answer) {
  if (answer.passages_found == 0) {
    return "the search found no passage at all; `quarry index info` tells what there is";
  }
  if (answer.generation.completion_tokens == 0) {
    return "what was found hardly speaks of this, so no model was asked; `quarry search` shows "
           "it, --min-relevance 0 asks all the same";
  }
  const std::string base = answer.adapter.empty() ? "" : ", --adapter none asks the untuned model";
  return "the model found no answer in the passages; --refusal-bias=-2 lets it refuse less "
         "readily, a larger --top-k shows it more" +
         base + ", `quarry search` shows what is there";
}

OrderedJson answer_json(const std::string& question, const Answer& answer) {
  OrderedJson json;
  json["question"] = question;
  json["answer"] = answer.text;
  json["adapter"] = answer.adapter.empty() ? OrderedJson() : OrderedJson(answer.adapter);
  json.update(
      retrieval_json(answer.answered, answer.search_seconds, answer.citations, answer.latent));
  json["finish_reason"] = finish_reason_name(answer.generation.finish_reason);
  json["usage"] = usage_json(answer.generation);
  json["prefill_seconds"] = answer.generation.prefill_seconds;
  json["decode_seconds"] = answer.generation.decode_seconds;
  return json;
}

void ask(const AskArguments& arguments, CommandContext& context) {
  AskOptions options;
  options.search = to_search_options(arguments.search);
  options.max_tokens = arguments.sampling.max_tokens;
  options.sampling = arguments.sampling.sampling;
  options.stop = arguments.sampling.stop;
  options.refusal_bias = arguments.refusal_bias;
  options.min_relevance = arguments.min_relevance;
  set_decoding(arguments.decode, options);
  options.beams = arguments.beams;
  options.top_logprobs = arguments.top_logprobs;

  const OpenedIndex opened = open_index(arguments.index, true, arguments.embedder);
  const auto engine = std::make_shared<Engine>(load_generator(arguments.generator),
                                               to_engine_options(arguments.generator));
  options.adapter = load_adapter(arguments.adapter, *engine);
  options.constraint = make_constraint(arguments.constraint, *engine);
  const Pipeline pipeline(opened.retriever, opened.embedder, engine,
                          load_reranker(arguments.search));
  const bool stream = !arguments.as_json;
  const Answer answer =
      pipeline.ask({{"user", arguments.question}}, options, [&](const std::string& text) {
        if (stream) std::cout << text << std::flush;
        return !context.cancel->cancelled();
      });
  context.cancel->check("answer");
  QUARRY_CHECK(answer.generation.finish_reason != FinishReason::kError, ErrorCode::kInternal,
               "generation failed: ", answer.generation.error);
  if (arguments.as_json) {
    OrderedJson json = answer_json(arguments.question, answer);
    if (options.top_logprobs >= 0) {
      json["logprobs"] = logprobs_json(*engine->generator()->tokenizer, answer.generation.logprobs);
    }
    print_json(json);
  } else {
    std::cout << "\n";
    print_sources(answer);
  }
  if (answer.answered) return;
  if (!arguments.as_json && !context.quiet) std::cerr << "help: " << refusal_help(answer) << "\n";
  context.exit_code = kExitNoAnswer;
}

}  // namespace

void add_ask_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<AskArguments>();
  arguments->search.top_k = 5;
  arguments->sampling.max_tokens = 128;
  CLI::App* command = app.add_subcommand("ask", "Answer a question from an index, with sources");
  command->add_option("INDEX", arguments->index, "Folder made by quarry index build")->required();
  command->add_option("QUESTION", arguments->question, "The question")->required();
  add_adapter_flag(*command, arguments->adapter);
  command->add_option("--min-relevance", arguments->min_relevance,
                      "Say \"not in the documents\" below this relevance; 0: always answer "
                      "(default: calibrated)");
  add_generator_flags(*command, arguments->generator);
  add_sampling_flags(*command, arguments->sampling);
  add_search_flags(*command, arguments->search);
  add_decode_flags(*command, arguments->decode);
  add_embedder_flags(*command, arguments->embedder);
  add_refusal_bias_flag(*command, arguments->refusal_bias);
  add_beam_flags(*command, arguments->beams);
  add_constraint_flags(*command, arguments->constraint);
  add_top_logprobs_flag(*command, arguments->top_logprobs);
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->footer(
      "Examples\n"
      "  quarry ask notes.idx \"when is the exam?\"\n"
      "  quarry ask notes.idx \"when is the exam?\" --top-k 3 --json\n"
      "  quarry ask notes.idx \"when is the exam?\" --model ~/models/other.gguf --adapter ./lora\n"
      "  quarry ask notes.idx \"when is the exam?\" --decode rag-sequence --mode dense --json\n"
      "Exit status 4 when the documents do not hold the answer.");
  command->callback([arguments, &context] { ask(*arguments, context); });
}

}  // namespace quarry::cli
