#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>

#include "api/cli/command.h"
#include "api/cli/model.h"
#include "api/cli/options.h"
#include "data/core/error.h"
#include "data/core/mapped_file.h"
#include "generator/adapters/quantize_model.h"
#include "generator/decode/compare_models.h"

namespace quarry::cli {
namespace {

struct QuantizeArguments {
  std::string source;
  std::string to = "nf4";
  std::string out;
  int64_t block_size = 64;
  bool single_quant = false;
  std::string text;
  CompareOptions compare;
  bool as_json = false;
};

std::optional<ModelComparison> measure(const QuantizeArguments& arguments) {
  if (arguments.text.empty()) return std::nullopt;
  const MappedFile file(arguments.text);
  const std::string text(reinterpret_cast<const char*>(file.data()), file.size());
  // The source without any rounding of ours; the result as it will be run.
  const LoadedGenerator reference =
      quarry::load_generator(arguments.source, kernels::Precision::kExact);
  const LoadedGenerator quantized =
      quarry::load_generator(arguments.out, kernels::Precision::kFast);
  return compare_models(reference, quantized, text, arguments.compare);
}

OrderedJson to_json(const QuantizeArguments& arguments, const QuantizeModelResult& result,
                    double seconds, const std::optional<ModelComparison>& quality) {
  OrderedJson json;
  json["out"] = arguments.out;
  json["type"] = arguments.to;
  json["quantized_tensors"] = result.quantized_tensors;
  json["source_bytes"] = result.source_bytes;
  json["bytes"] = result.bytes;
  json["seconds"] = seconds;
  if (quality) {
    json["tokens"] = quality->tokens;
    json["source_perplexity"] = quality->reference_perplexity;
    json["perplexity"] = quality->perplexity;
    json["mean_kl"] = quality->mean_kl;
    json["max_kl"] = quality->max_kl;
    json["same_top_token"] = quality->same_top_token;
  }
  return json;
}

void print(const QuantizeArguments& arguments, const QuantizeModelResult& result, double seconds,
           const std::optional<ModelComparison>& quality) {
  std::printf("%s: %lld tensors as %s in %.1f s, %.1f MB (source %.1f MB)\n", arguments.out.c_str(),
              static_cast<long long>(result.quantized_tensors), arguments.to.c_str(), seconds,
              static_cast<double>(result.bytes) / 1e6,
              static_cast<double>(result.source_bytes) / 1e6);
  if (!quality) return;
  std::printf(
      "perplexity %.3f (source %.3f), KL %.5f nats (largest %.3f), same likeliest token "
      "%.1f %%, over %lld tokens\n",
      quality->perplexity, quality->reference_perplexity, quality->mean_kl, quality->max_kl,
      100.0 * quality->same_top_token, static_cast<long long>(quality->tokens));
}

void quantize(const QuantizeArguments& arguments, const CommandContext& context) {
  QuantizeModelOptions options;
  options.cancel = context.cancel;
  options.type = parse_quantized_type(arguments.to);
  options.block_size = arguments.block_size;
  options.double_quant = !arguments.single_quant;
  const auto begin = std::chrono::steady_clock::now();
  const QuantizeModelResult result =
      quantize_model(*ModelFile::open(resolve_model(arguments.source)), arguments.out, options);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const std::optional<ModelComparison> quality = measure(arguments);
  if (arguments.as_json) {
    print_json(to_json(arguments, result, seconds, quality));
  } else {
    print(arguments, result, seconds, quality);
  }
}

}  // namespace

void add_model_quantize_command(CLI::App& model, CommandContext& context) {
  auto arguments = std::make_shared<QuantizeArguments>();
  CLI::App* command =
      model.add_subcommand("quantize", "Write a smaller copy of a generator, and measure its loss");
  command->add_option("SOURCE", arguments->source, "Short name, Hugging Face folder or .gguf file")
      ->required();
  command
      ->add_option("--to", arguments->to,
                   "nf4, fp4 or int8: a folder as bitsandbytes saves it; q8_0, q5_1, q5_0, q4_1 or "
                   "q4_0: a GGUF, from a GGUF")
      ->check(CLI::IsMember(quantized_type_names()))
      ->capture_default_str();
  command->add_option("--out", arguments->out, "Folder or .gguf file; must not exist")->required();
  command->add_option("--block-size", arguments->block_size, "Of nf4 and fp4, 32 to 4096")
      ->capture_default_str();
  command->add_flag("--single-quant", arguments->single_quant,
                    "Keep the scales of nf4 and fp4 in 32 bits");
  command->add_option("--text", arguments->text,
                      "Text file: print perplexity and KL divergence against the source");
  command->add_option("--max-tokens", arguments->compare.max_tokens, "Of the text")
      ->check(kPositive)
      ->capture_default_str();
  command->add_flag("--json", arguments->as_json, "Print JSON");
  command->footer(
      "Examples\n"
      "  quarry model quantize ~/models/my-llama --to nf4 --out my-llama-nf4 --text sample.txt\n"
      "  quarry model quantize my-llama-f16.gguf --to q4_1 --out my-llama-q4_1.gguf");
  command->callback([arguments, &context] { quantize(*arguments, context); });
}

}  // namespace quarry::cli
