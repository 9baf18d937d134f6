#include <iostream>
#include <iterator>
#include <memory>

#include "api/answer_json.h"
#include "api/cli/command.h"
#include "api/cli/options.h"
#include "api/logprobs_json.h"
#include "data/core/error.h"
#include "generator/prompt.h"

namespace quarry::cli {
namespace {

struct GenerateArguments {
  std::string prompt;
  std::string system;
  std::string adapter;
  bool raw = false;
  BeamSearchOptions beams;
  ConstraintFlags constraint;
  int64_t top_logprobs = -1;
  bool as_json = false;
  GeneratorFlags generator;
  SamplingFlags sampling;
};

std::vector<int32_t> encode_prompt(const LoadedGenerator& generator,
                                   const GenerateArguments& arguments) {
  if (arguments.raw) {
    return generator.tokenizer->encode(arguments.prompt, Tokenizer::SpecialTokens::kAdd);
  }
  std::vector<ChatMessage> messages;
  if (!arguments.system.empty()) messages.push_back({"system", arguments.system});
  messages.push_back({"user", arguments.prompt});
  return render_chat(generator, messages);
}

void generate(GenerateArguments arguments, CommandContext& context) {
  if (arguments.prompt == "-") {
    arguments.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
    if (!arguments.prompt.empty() && arguments.prompt.back() == '\n') arguments.prompt.pop_back();
  }
  const auto generator = load_generator(arguments.generator);
  Engine engine(generator, to_engine_options(arguments.generator));
  GenerateRequest request;
  request.prompt = encode_prompt(*generator, arguments);
  request.max_tokens = arguments.sampling.max_tokens;
  request.sampling = arguments.sampling.sampling;
  request.stop = arguments.sampling.stop;
  request.top_logprobs = arguments.top_logprobs;
  request.constraint = make_constraint(arguments.constraint, engine);
  if (!arguments.adapter.empty()) request.adapter = load_adapter(arguments.adapter, engine);
  const bool stream = !arguments.as_json;
  const auto on_text = [&](const std::string& text) {
    if (stream) std::cout << text << std::flush;
    return !context.cancel->cancelled();
  };
  const GenerateResult result =
      arguments.beams.num_beams > 1
          ? beam_search(engine, std::move(request), arguments.beams, on_text)
          : engine.submit(std::move(request), on_text).result.get();
  context.cancel->check("generation");
  QUARRY_CHECK(result.finish_reason != FinishReason::kError, ErrorCode::kInternal,
               "generation failed: ", result.error);
  if (!arguments.as_json) {
    std::cout << "\n";
    return;
  }
  OrderedJson json;
  json["text"] = result.text;
  json["finish_reason"] = finish_reason_name(result.finish_reason);
  json["usage"] = usage_json(result);
  json["prefill_seconds"] = result.prefill_seconds;
  json["decode_seconds"] = result.decode_seconds;
  if (arguments.top_logprobs >= 0) {
    json["logprobs"] = logprobs_json(*generator->tokenizer, result.logprobs);
  }
  print_json(json);
}

}  // namespace

void add_generate_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<GenerateArguments>();
  CLI::App* command = app.add_subcommand("generate", "Continue a prompt, without retrieval");
  command->add_option("PROMPT", arguments->prompt, "The user's message; - reads standard input")
      ->required();
  command->add_option("--system", arguments->system, "System message");
  command->add_flag("--raw", arguments->raw, "Send the prompt as it is, without the chat template");
  command->add_option("--adapter", arguments->adapter,
                      "LoRA adapter: a name that `quarry adapter ls` lists or a PEFT folder "
                      "(default: none)");
  add_generator_flags(*command, arguments->generator);
  add_sampling_flags(*command, arguments->sampling);
  add_beam_flags(*command, arguments->beams);
  add_constraint_flags(*command, arguments->constraint);
  add_top_logprobs_flag(*command, arguments->top_logprobs);
  command->add_flag("--json", arguments->as_json, "Print JSON when done");
  command->footer(
      "Examples\n"
      "  quarry generate \"Write a haiku about rain\"\n"
      "  quarry generate \"Once upon a time\" --raw --temperature 0.8 --top-p 0.95 --seed 7\n"
      "  quarry generate \"Describe Ada Lovelace as JSON\" --json-schema person.json\n"
      "  quarry generate \"Is water wet?\" --regex \"yes|no\"\n"
      "  cat prompt.txt | quarry generate - --model ~/models/other.gguf");
  command->callback([arguments, &context] { generate(*arguments, context); });
}

}  // namespace quarry::cli
