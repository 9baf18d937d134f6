#include "api/cli/options.h"

#include <cmath>
#include <cstdlib>
#include <iostream>

#include "data/core/error.h"
#include "data/core/mapped_file.h"
#include "data/store/passage_store.h"
#include "generator/adapters/adapter_catalog.h"
#include "generator/decode/constraint/constraints.h"
#include "retriever/index_embedder.h"

namespace quarry::cli {
namespace {

CLI::Validator number_check(const char* name, bool with_zero) {
  const auto check = [with_zero](const std::string& text) -> std::string {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    const bool is_number = !text.empty() && *end == '\0' && std::isfinite(value);
    if (is_number && (value > 0.0 || (with_zero && value == 0.0))) return "";
    return concat("Value ", text, " is no number ", with_zero ? "from 0 on" : "above 0");
  };
  return CLI::Validator(check, name);
}

}  // namespace

const CLI::Validator kNonNegative = number_check("NONNEGATIVE", true);
const CLI::Validator kPositive = number_check("POSITIVE", false);

void add_precision_flag(CLI::App& command, std::string& precision) {
  command
      .add_option(
          "--precision", precision,
          "fast: 16-bit integer activations against 4- and 8-bit weights, the float model's "
          "text; fast8: 8-bit ones, faster with AVX-512 and as good as other engines' "
          "4-bit inference; exact: float32 everywhere")
      ->check(CLI::IsMember({"fast", "fast8", "exact"}))
      ->capture_default_str();
}

kernels::Precision parse_precision(const std::string& precision) {
  if (precision == "exact") return kernels::Precision::kExact;
  return precision == "fast8" ? kernels::Precision::kFast8 : kernels::Precision::kFast;
}

void add_load_in_flag(CLI::App& command, std::string& load_in) {
  command
      .add_option("--load-in", load_in,
                  "How weights are held: as-is, nf4 (4.25 bits), fp4, int8, bf16 or f32; quantized "
                  "at load, the head and the embedding stay as they are")
      ->check(CLI::IsMember({"as-is", "nf4", "fp4", "int8", "bf16", "f32"}))
      ->capture_default_str();
}

void add_device_flag(CLI::App& command, std::string& device, const std::string& what) {
  command
      .add_option(
          "--device", device,
          "What " + what +
              ": the CPU, or in a build with CUDA the first GPU (CUDA_VISIBLE_DEVICES "
              "chooses), where dense weights become bytes with a scale for each 64; auto: a GPU "
              "where there is one and it suits the model")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
}

Device parse_device(const std::string& device) {
  if (device == "cpu") return Device::kCpu;
  return device == "cuda" ? Device::kCuda : Device::kAuto;
}

void tell_why_cpu(const std::string& model, const std::string& why) {
  if (!why.empty()) std::cerr << "quarry: " << model << " runs on the CPU: " << why << '\n';
}

void add_generator_flags(CLI::App& command, GeneratorFlags& flags) {
  command
      .add_option("-m,--model", flags.model,
                  "Generator: short name, Hugging Face folder or .gguf file")
      ->capture_default_str();
  add_precision_flag(command, flags.precision);
  add_load_in_flag(command, flags.load_in);
  command
      .add_option("--llm-int8", flags.llm_int8_threshold,
                  "Multiply int8 weights as LLM.int8 does, with this outlier threshold (6 is "
                  "usual); 0: activations keep 16 bits")
      ->check(kNonNegative)
      ->capture_default_str();
  command
      .add_option("--offload", flags.offload,
                  "Keep the weights in a file under the cache folder that the system reads as it "
                  "needs, so that a model larger than memory runs; auto: when it would not fit")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  add_device_flag(command, flags.device, "generates");
  command.add_flag(
      "--no-prompt-lookup", flags.no_prompt_lookup,
      "Generate one token a step even where the text so far suggests several (the text "
      "is the same)");
}

std::shared_ptr<const LoadedGenerator> load_generator(const GeneratorFlags& flags) {
  GeneratorOptions options;
  options.precision = parse_precision(flags.precision);
  options.weights.load_in = parse_load_in(flags.load_in);
  options.weights.llm_int8_threshold = flags.llm_int8_threshold;
  if (flags.offload != "off") {
    options.offload = flags.offload == "on" ? Offload::kOn : Offload::kAuto;
  }
  options.device = parse_device(flags.device);
  auto loaded =
      std::make_shared<const LoadedGenerator>(quarry::load_generator(flags.model, options));
  if (loaded->is_offloaded && flags.offload == "auto" && loaded->device == Device::kCpu) {
    std::cerr
        << "quarry: " << loaded->name
        << " does not fit into memory: its weights are read from the disk as needed, which is "
           "slow\n";
  }
  tell_why_cpu(loaded->name, loaded->why_cpu);
  return loaded;
}

EngineOptions to_engine_options(const GeneratorFlags& flags) {
  EngineOptions options;
  options.prompt_lookup = !flags.no_prompt_lookup;
  return options;
}

void add_adapter_flag(CLI::App& command, std::string& adapter) {
  command.add_option("--adapter", adapter,
                     "LoRA adapter to answer with: a name that `quarry adapter ls` lists, a PEFT "
                     "folder, or none for the base model (default: the one made for the model, "
                     "if installed)");
}

std::string load_adapter(const std::string& adapter, Engine& engine) {
  if (adapter == kNoAdapter) return "";
  std::filesystem::path folder;
  if (adapter.empty()) {
    const auto installed = default_adapter(*engine.generator());
    if (!installed) return "";
    folder = *installed;
  } else {
    folder = std::filesystem::absolute(resolve_adapter(adapter)).lexically_normal();
    if (!folder.has_filename()) folder = folder.parent_path();  // "lora/"
  }
  std::string name = folder.filename().string();
  if (name == engine.generator()->name) name += "-adapter";
  engine.adapters().load(name, folder);
  return name;
}

void add_sampling_flags(CLI::App& command, SamplingFlags& flags) {
  command.add_option("--max-tokens", flags.max_tokens, "Longest answer in tokens")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command
      .add_option("--temperature", flags.sampling.temperature, "0: greedy, always the same text")
      ->capture_default_str();
  command
      .add_option("--sample-top-k", flags.sampling.top_k, "Sample among the k likeliest; 0: off")
      ->capture_default_str();
  command.add_option("--top-p", flags.sampling.top_p, "Nucleus sampling; 1: off")
      ->capture_default_str();
  command
      .add_option("--min-p", flags.sampling.min_p,
                  "Drop tokens below this share of the likeliest one's probability; 0: off")
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", flags.sampling.repetition_penalty,
                  "Above 1 discourages repeating; 1: off")
      ->capture_default_str();
  command.add_option("--seed", flags.sampling.seed, "The same seed gives the same text")
      ->capture_default_str();
  command.add_option("--stop", flags.stop, "End the text before this string (repeatable)")
      ->take_all()
      ->expected(1);
}

void add_beam_flags(CLI::App& command, BeamSearchOptions& beams) {
  command
      .add_option("--num-beams", beams.num_beams,
                  "Beam search over so many texts, shown when it ends; 1: greedy")
      ->check(CLI::Range(int64_t{1}, kMostBeams))
      ->capture_default_str();
  command
      .add_option("--length-penalty", beams.length_penalty,
                  "Beams: a text's log-probability is divided by its number of tokens to this "
                  "power; above 0 favours long ones")
      ->capture_default_str();
}

void add_constraint_flags(CLI::App& command, ConstraintFlags& flags) {
  CLI::Option* schema =
      command.add_option("--json-schema", flags.json_schema,
                         "The text is JSON that satisfies the schema in this file; "
                         "{\"type\": \"object\"} is any object");
  command
      .add_option("--regex", flags.regex,
                  "The whole text matches this regular expression: classes, groups, | * + ? {m,n}, "
                  "\\d \\w \\s")
      ->excludes(schema);
}

std::shared_ptr<Constraint> make_constraint(const ConstraintFlags& flags, Engine& engine) {
  if (!flags.json_schema.empty()) {
    const MappedFile file(flags.json_schema);
    const std::string schema(reinterpret_cast<const char*>(file.data()), file.size());
    return naming_source(flags.json_schema,
                         [&] { return engine.constraints().json_schema(schema); });
  }
  return flags.regex.empty() ? nullptr : engine.constraints().regex(flags.regex);
}

void add_top_logprobs_flag(CLI::App& command, int64_t& top_logprobs) {
  command
      .add_option("--top-logprobs", top_logprobs,
                  "With --json: the log-probability of each token and of so many of the likeliest")
      ->check(CLI::Range(int64_t{0}, kMostTopLogprobs));
}

void add_search_flags(CLI::App& command, SearchFlags& flags) {
  command.add_option("-k,--top-k", flags.top_k, "How many passages")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
  command.add_option("--mode", flags.mode, "How to search")
      ->check(CLI::IsMember({"dense", "lexical", "hybrid"}))
      ->capture_default_str();
  command.add_option("--fusion", flags.fusion, "How hybrid joins the two rankings")
      ->check(CLI::IsMember({"min-max", "rrf"}))
      ->capture_default_str();
  command
      .add_option("--dense-weight", flags.dense_weight,
                  "Share of the dense score in min-max fusion, 0 to 1")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command
      .add_option("--filter", flags.filter,
                  "Only documents whose metadata has key=value; also uri_prefix=... and format=... "
                  "(repeatable)")
      ->take_all()
      ->expected(1);
  command.add_option("--rerank", flags.rerank,
                     "Cross-encoder that orders the passages found: a sequence classifier with one "
                     "label, short name or Hugging Face folder");
  command.add_option("--rerank-adapter", flags.rerank_adapter,
                     "LoRA adapter and head for it: what `quarry finetune --recipe reranker` left, "
                     "or any PEFT folder of task type SEQ_CLS");
  command
      .add_option("--rerank-candidates", flags.rerank_candidates,
                  "How many passages it reads, at least --top-k")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
}

void add_refusal_bias_flag(CLI::App& command, double& bias) {
  command
      .add_option("--refusal-bias", bias,
                  "How readily a tuned model says \"not in the documents\": nats added to what its "
                  "adapter has; =-inf: never")
      ->capture_default_str();
}

SearchOptions to_search_options(const SearchFlags& flags) {
  SearchOptions options;
  options.mode = parse_search_mode(flags.mode);
  options.fusion = parse_fusion(flags.fusion);
  options.top_k = flags.top_k;
  options.dense_weight = flags.dense_weight;
  options.rerank_candidates = flags.rerank.empty() ? 0 : flags.rerank_candidates;
  for (const std::string& pair : flags.filter) {
    const size_t equals = pair.find('=');
    QUARRY_CHECK(equals != std::string::npos && equals > 0, ErrorCode::kInvalidArgument,
                 "--filter '", pair, "': want key=value");
    options.filter[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  return options;
}

std::shared_ptr<const Reranker> load_reranker(const SearchFlags& flags) {
  QUARRY_CHECK(flags.rerank_adapter.empty() || !flags.rerank.empty(), ErrorCode::kInvalidArgument,
               "--rerank-adapter ", flags.rerank_adapter, ": wanted --rerank, the model it is for");
  if (flags.rerank.empty()) return nullptr;
  return Reranker::load(flags.rerank, flags.rerank_adapter.empty()
                                          ? std::filesystem::path()
                                          : resolve_adapter(flags.rerank_adapter));
}

void add_decode_flags(CLI::App& command, DecodeFlags& flags) {
  command
      .add_option("--decode", flags.decode,
                  "concat: all passages in one prompt; rag-sequence: an answer from each, weighed; "
                  "rag-token: one answer whose tokens mix what each passage says")
      ->check(CLI::IsMember({"concat", "rag-sequence", "rag-token"}))
      ->capture_default_str();
  command
      .add_option("--prior-temperature", flags.prior_temperature,
                  "Of the passages' probabilities, the softmax of their cosines, for the last two; "
                  "as in training")
      ->check(kPositive)
      ->capture_default_str();
}

void set_decoding(const DecodeFlags& flags, AskOptions& options) {
  options.decode = parse_decoding(flags.decode);
  options.prior_temperature = flags.prior_temperature;
}

void add_embedder_flags(CLI::App& command, EmbedderFlags& flags) {
  command.add_option("--embedder", flags.model,
                     "Embedder to use (default: the one the index was made with)");
  command.add_option("--query-encoder", flags.query_encoder,
                     "Model that questions are embedded with, where they have one of their own (of "
                     "DPR the question encoder); passages stay as the index has them");
  command.add_option("--query-adapter", flags.query_adapter,
                     "LoRA adapter of the embedder, a name that `quarry adapter ls` lists or a "
                     "PEFT folder, that questions are embedded with; passages stay as the index "
                     "has them");
}

OpenedIndex open_index(const std::string& index, bool needs_embedder, const EmbedderFlags& flags) {
  OpenedIndex opened;
  if (needs_embedder) {
    EmbedderOptions options;
    if (!flags.query_adapter.empty()) {
      options.query_adapter = resolve_adapter(flags.query_adapter);
    }
    options.query_encoder = flags.query_encoder;
    opened.embedder = load_index_embedder(index, options, flags.model);
  }
  opened.retriever = Retriever::open(index, opened.embedder);
  return opened;
}

std::string source_label(const Passage& passage) {
  if (passage.title.empty() && passage.heading.empty()) return passage.document_uri;
  if (passage.heading.empty() || passage.heading == passage.title) return passage.title;
  if (passage.title.empty()) return passage.heading;
  return passage.title + " > " + passage.heading;
}

}  // namespace quarry::cli
