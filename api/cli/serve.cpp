#include <algorithm>
#include <atomic>
#include <chrono>
#include <iostream>
#include <memory>
#include <thread>

#include "api/cli/command.h"
#include "api/cli/options.h"
#include "api/http/server.h"
#include "data/core/error.h"
#include "generator/adapters/adapter_catalog.h"
#include "generator/models/device.h"

namespace quarry::cli {
namespace {

struct ServeArguments {
  std::string index;
  EmbedderFlags embedder;
  std::string api_key_file;
  std::vector<std::string> adapters;  // NAME=DIR, or one without a name
  std::string adapter_root;
  ServerOptions server;
  EngineOptions engine;
  std::string prefix_cache_file;
  int64_t prefix_cache_mb = EngineOptions().prefix_cache_bytes >> 20;
  GeneratorFlags generator;
  SamplingFlags sampling;
  SearchFlags search;
  DecodeFlags decode;
};

// Whether the user has chosen what answers requests without a model.
bool names_default_adapter(const std::vector<std::string>& adapters) {
  return std::any_of(adapters.begin(), adapters.end(), [](const std::string& adapter) {
    return adapter.find('=') == std::string::npos;
  });
}

// Loads adapters and returns the name of the one that requests without a model get; empty: the base
// model.
std::string load_adapters(const std::vector<std::string>& adapters, Engine& engine) {
  std::vector<std::string> unnamed;
  for (const std::string& adapter : adapters) {
    const size_t equals = adapter.find('=');
    if (equals == std::string::npos) {
      unnamed.push_back(adapter);
      continue;
    }
    QUARRY_CHECK(equals > 0 && equals + 1 < adapter.size(), ErrorCode::kInvalidArgument,
                 "--adapter '", adapter, "': want NAME=DIR");
    engine.adapters().load(adapter.substr(0, equals), resolve_adapter(adapter.substr(equals + 1)));
  }
  QUARRY_CHECK(unnamed.size() <= 1, ErrorCode::kInvalidArgument, "--adapter '", unnamed.back(),
               "': requests without a model get '", unnamed.front(),
               "' already; give others names, NAME=DIR");
  return load_adapter(unnamed.empty() ? "" : unnamed.front(), engine);
}

// The folder in full.
std::filesystem::path adapter_root(const std::string& folder) {
  if (folder.empty()) return {};
  std::error_code error;
  std::filesystem::path root = std::filesystem::canonical(folder, error);
  QUARRY_CHECK(!error && std::filesystem::is_directory(root, error), ErrorCode::kNotFound,
               "--adapter-root '", folder, "': no such folder");
  return root;
}

// Stops the server soon after the flag is set. Joined when it goes.
class StopOnCancel {
 public:
  StopOnCancel(const CancelFlag& flag, Server& server)
      : thread_([this, &flag, &server] {
          while (!done_) {
            if (flag.cancelled()) {
              server.stop();
              return;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
          }
        }) {}
  StopOnCancel(const StopOnCancel&) = delete;
  StopOnCancel& operator=(const StopOnCancel&) = delete;
  ~StopOnCancel() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// What an earlier server kept in the file; empty: none. Returns whether it may be replaced: one
// that cannot be used may be another model's, or something else.
bool load_prefixes(const std::string& file, Engine& engine, bool quiet) {
  if (file.empty()) return false;
  const Engine::LoadedPrefixes loaded = engine.load_prefixes(file);
  if (!loaded.warning.empty()) {
    std::cerr
        << "warning: " << loaded.warning
        << "; the prefix cache begins empty and is not kept: remove the file, or name another, "
           "to keep it\n";
  } else if (!quiet && loaded.bytes > 0) {
    std::cerr << "prefix cache: " << (loaded.bytes >> 20) << " MB from " << file << "\n";
  }
  return loaded.warning.empty();
}

void save_prefixes(const std::string& file, Engine& engine) {
  try {
    engine.save_prefixes(file);
  } catch (const Error& error) {
    std::cerr << "warning: the prefix cache is not kept: " << error.what() << "\n";
  }
}

void serve(ServeArguments arguments, CommandContext& context) {
  ServerOptions options = std::move(arguments.server);
  if (!arguments.api_key_file.empty()) options.api_keys = load_api_keys(arguments.api_key_file);
  options.ask.search = to_search_options(arguments.search);
  options.ask.max_tokens = arguments.sampling.max_tokens;
  options.ask.sampling = arguments.sampling.sampling;
  options.ask.stop = arguments.sampling.stop;
  set_decoding(arguments.decode, options.ask);
  options.adapter_root = adapter_root(arguments.adapter_root);

  const OpenedIndex opened = open_index(arguments.index, true, arguments.embedder);
  arguments.engine.prefix_cache_bytes = arguments.prefix_cache_mb << 20;
  arguments.engine.prompt_lookup = !arguments.generator.no_prompt_lookup;
  const auto engine =
      std::make_shared<Engine>(load_generator(arguments.generator), arguments.engine);
  options.ask.adapter = load_adapters(arguments.adapters, *engine);
  options.adapter_wants_passages = !names_default_adapter(arguments.adapters);
  const bool keeps_prefixes = load_prefixes(arguments.prefix_cache_file, *engine, context.quiet);
  const Pipeline pipeline(opened.retriever, opened.embedder, engine,
                          load_reranker(arguments.search));
  Server server(pipeline, options);
  const int port = server.bind();
  if (engine->generator()->device == Device::kCuda && !context.quiet) {
    std::cerr << engine->generator()->name << " generates on the GPU, " << cuda_support().name
              << "\n";
  }
  std::cerr << "serving " << arguments.index << " on http://" << options.host << ":" << port
            << (context.quiet ? "\n" : "  (Ctrl-C ends it)\n");
  const StopOnCancel stopper(*context.cancel, server);
  server.run();
  if (keeps_prefixes) save_prefixes(arguments.prefix_cache_file, *engine);
  if (!context.quiet) std::cerr << "stopped\n";
}

}  // namespace

void add_serve_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<ServeArguments>();
  arguments->search.top_k = 5;
  arguments->engine.max_lora_rank = 64;
  CLI::App* command = app.add_subcommand("serve", "Answer over HTTP, OpenAI-compatible");
  command->add_option("INDEX", arguments->index, "Folder made by quarry index build")->required();
  command->add_option("--host", arguments->server.host, "Address to listen on")
      ->capture_default_str();
  command->add_option("-p,--port", arguments->server.port, "Port; 0 takes any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command
      ->add_option("--adapter", arguments->adapters,
                   "NAME=DIR: a LoRA adapter asked for as model NAME (repeatable). Without NAME=: "
                   "what answers requests that name no model; none for the base (default: the "
                   "adapter made for the model, if installed, for answers from the documents)")
      ->take_all()
      ->expected(1);
  command->add_option("--adapter-root", arguments->adapter_root,
                      "Let clients load, swap, combine and fuse adapters at /v1/adapters; they "
                      "are read from below this folder only");
  command
      ->add_option("--max-lora-rank", arguments->engine.max_lora_rank,
                   "Refuse adapters of a larger rank")
      ->check(CLI::Range(int64_t{1}, kMaxLoraRank))
      ->capture_default_str();
  // Empty, as of a variable that is not set, it would let everybody in.
  command
      ->add_option("--api-key-file", arguments->api_key_file, "Accept only these keys, one a line")
      ->check(
          [](const std::string& file) { return file.empty() ? "wanted the name of a file" : ""; });
  command->add_option("--model-name", arguments->server.model_name,
                      "Id of the base model (default: its own name)");
  command->add_option("--cors-origin", arguments->server.cors_origin,
                      "Origin that browsers may call from, or *");
  command
      ->add_option("--max-sequences", arguments->engine.max_batch_sequences,
                   "Answers generated at once; more wait")
      ->check(CLI::Range(int64_t{1}, int64_t{1024}))
      ->capture_default_str();
  command
      ->add_option("--prefix-cache-mb", arguments->prefix_cache_mb,
                   "Memory for keys and values of earlier prompts and answers, so that what begins "
                   "alike is not read again; 0: off")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--prefix-cache-file", arguments->prefix_cache_file,
                      "Keep that cache over restarts: read from this file at start, written to it "
                      "on Ctrl-C. What another model, precision or instruction set made is left "
                      "alone with a warning. It tells what was asked: only you may read it");
  command
      ->add_option("--drain-seconds", arguments->server.drain_timeout_seconds,
                   "How long running answers may take after Ctrl-C")
      ->capture_default_str();
  add_generator_flags(*command, arguments->generator);
  add_sampling_flags(*command, arguments->sampling);
  add_search_flags(*command, arguments->search);
  add_decode_flags(*command, arguments->decode);
  add_embedder_flags(*command, arguments->embedder);
  command->footer(
      "Examples\n"
      "  quarry serve notes.idx --port 8080\n"
      "  quarry serve notes.idx --adapter law=./law-lora --api-key-file keys.txt\n"
      "  quarry serve notes.idx --adapter ./my-lora --adapter-root ~/loras\n"
      "  quarry serve notes.idx --prefix-cache-file notes.prefixes\n"
      "  curl localhost:8080/v1/chat/completions -d '{\"model\":\"law\",\n"
      "    \"messages\":[{\"role\":\"user\",\"content\":\"when is the exam?\"}]}'");
  command->callback([arguments, &context] { serve(*arguments, context); });
}

}  // namespace quarry::cli
