#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "api/pipeline.h"
#include "generator/decode/beam_search.h"
#include "generator/decode/engine.h"
#include "generator/weights/model_catalog.h"
#include "retriever/reranker.h"
#include "retriever/search.h"

namespace quarry::cli {

// Options that several subcommands share, with one spelling and one help text.

// Numbers of any size from 0 on, or above it. (CLI11's own name the largest double in messages.)
extern const CLI::Validator kNonNegative;
extern const CLI::Validator kPositive;

struct GeneratorFlags {
  std::string model = kDefaultGenerator;
  std::string precision = "fast";
  std::string load_in = "as-is";
  float llm_int8_threshold = 0.0f;
  std::string offload = "auto";
  std::string device = "auto";
  bool no_prompt_lookup = false;
};
void add_generator_flags(CLI::App& command, GeneratorFlags& flags);
void add_precision_flag(CLI::App& command, std::string& precision);
kernels::Precision parse_precision(const std::string& precision);
void add_load_in_flag(CLI::App& command, std::string& load_in);
std::shared_ptr<const LoadedGenerator> load_generator(const GeneratorFlags& flags);
void add_device_flag(CLI::App& command, std::string& device, const std::string& what);
Device parse_device(const std::string& device);
// Tells on stderr why a model does not run on the GPU that is there; nothing where `why` is empty.
void tell_why_cpu(const std::string& model, const std::string& why);
EngineOptions to_engine_options(const GeneratorFlags& flags);

// "--adapter" of commands that answer with one adapter: a name, a folder, or kNoAdapter.
void add_adapter_flag(CLI::App& command, std::string& adapter);
constexpr const char* kNoAdapter = "none";
// Loads that adapter, or for "" default_adapter(), and returns its name in the engine: that of its
// folder; "" for the base model. Throws as resolve_adapter() and AdapterSet::load().
std::string load_adapter(const std::string& adapter, Engine& engine);

struct SamplingFlags {
  int64_t max_tokens = 256;
  SamplingOptions sampling;
  std::vector<std::string> stop;
};
void add_sampling_flags(CLI::App& command, SamplingFlags& flags);
void add_beam_flags(CLI::App& command, BeamSearchOptions& beams);
// What the text is held to; at most one is given.
struct ConstraintFlags {
  std::string json_schema;  // file
  std::string regex;
};
void add_constraint_flags(CLI::App& command, ConstraintFlags& flags);
// Null without any. Throws kNotFound (file), kInvalidArgument.
std::shared_ptr<Constraint> make_constraint(const ConstraintFlags& flags, Engine& engine);
// GenerateRequest::top_logprobs.
void add_top_logprobs_flag(CLI::App& command, int64_t& top_logprobs);

struct SearchFlags {
  int64_t top_k = 10;
  std::string mode = "hybrid";
  std::string fusion = "min-max";
  double dense_weight = SearchOptions{}.dense_weight;
  std::vector<std::string> filter;  // key=value
  std::string rerank;               // model of a Reranker; empty: none
  std::string rerank_adapter;       // of it; empty: none
  int64_t rerank_candidates = 50;
};
void add_search_flags(CLI::App& command, SearchFlags& flags);
// AskOptions::refusal_bias.
void add_refusal_bias_flag(CLI::App& command, double& bias);
SearchOptions to_search_options(const SearchFlags& flags);
// Null without --rerank.
std::shared_ptr<const Reranker> load_reranker(const SearchFlags& flags);

// How an answer is decoded.
struct DecodeFlags {
  std::string decode = "concat";
  double prior_temperature = kPriorTemperature;
};
void add_decode_flags(CLI::App& command, DecodeFlags& flags);
void set_decoding(const DecodeFlags& flags, AskOptions& options);

// What embeds questions.
struct EmbedderFlags {
  std::string model;          // empty: what the index's manifest names
  std::string query_encoder;  // for questions alone; empty: none
  std::string query_adapter;  // as resolve_adapter() takes it; empty: none
};
void add_embedder_flags(CLI::App& command, EmbedderFlags& flags);

struct OpenedIndex {
  std::shared_ptr<const Embedder> embedder;
  std::shared_ptr<Retriever> retriever;
};
OpenedIndex open_index(const std::string& index, bool needs_embedder, const EmbedderFlags& flags);

// "title > heading" of a passage, whichever are there; the document's uri when neither is.
std::string source_label(const Passage& passage);

}  // namespace quarry::cli
