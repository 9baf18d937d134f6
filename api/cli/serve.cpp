#include <atomic>
#include <chrono>
#include <iostream>
#include <memory>
#include <thread>

#include "api/cli/command.h"
#include "api/cli/options.h"
#include "api/http/server.h"
#include "data/core/error.h"

namespace quarry::cli {
namespace {

struct ServeArguments {
  std::string index;
  std::string embedder;
  std::string api_key_file;
  std::vector<std::string> adapters;  // NAME=DIR
  ServerOptions server;
  EngineOptions engine;
  GeneratorFlags generator;
  SamplingFlags sampling;
  SearchFlags search;
};

void add_adapters(const std::vector<std::string>& adapters, Engine& engine) {
  for (const std::string& adapter : adapters) {
    const size_t equals = adapter.find('=');
    QUARRY_CHECK(equals != std::string::npos && equals > 0 && equals + 1 < adapter.size(),
                 ErrorCode::kInvalidArgument, "--adapter '", adapter, "': want NAME=DIR");
    engine.add_adapter(adapter.substr(0, equals), adapter.substr(equals + 1));
  }
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

void serve(ServeArguments arguments, CommandContext& context) {
  ServerOptions options = std::move(arguments.server);
  if (!arguments.api_key_file.empty()) options.api_keys = load_api_keys(arguments.api_key_file);
  options.ask.search = to_search_options(arguments.search);
  options.ask.max_tokens = arguments.sampling.max_tokens;
  options.ask.sampling = arguments.sampling.sampling;
  options.ask.stop = arguments.sampling.stop;

  const OpenedIndex opened = open_index(arguments.index, arguments.embedder, true);
  const auto engine =
      std::make_shared<Engine>(load_generator(arguments.generator), arguments.engine);
  add_adapters(arguments.adapters, *engine);
  const Pipeline pipeline(opened.retriever, opened.embedder, engine);
  Server server(pipeline, options);
  const int port = server.bind();
  std::cerr << "serving " << arguments.index << " on http://" << options.host << ":" << port
            << (context.quiet ? "\n" : "  (Ctrl-C ends it)\n");
  const StopOnCancel stopper(*context.cancel, server);
  server.run();
  if (!context.quiet) std::cerr << "stopped\n";
}

}  // namespace

void add_serve_command(CLI::App& app, CommandContext& context) {
  auto arguments = std::make_shared<ServeArguments>();
  arguments->search.top_k = 5;
  CLI::App* command = app.add_subcommand("serve", "Answer over HTTP, OpenAI-compatible");
  command->add_option("INDEX", arguments->index, "Folder made by quarry index build")->required();
  command->add_option("--host", arguments->server.host, "Address to listen on")
      ->capture_default_str();
  command->add_option("-p,--port", arguments->server.port, "Port; 0 takes any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command
      ->add_option("--adapter", arguments->adapters,
                   "NAME=DIR: PEFT LoRA adapter, asked for as model NAME (repeatable)")
      ->take_all()
      ->expected(1);
  command->add_option("--api-key-file", arguments->api_key_file,
                      "Accept only these keys, one a line");
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
      ->add_option("--drain-seconds", arguments->server.drain_timeout_seconds,
                   "How long running answers may take after Ctrl-C")
      ->capture_default_str();
  add_generator_flags(*command, arguments->generator);
  add_sampling_flags(*command, arguments->sampling);
  add_search_flags(*command, arguments->search);
  command->add_option("--embedder", arguments->embedder,
                      "Embedder to use (default: the one the index was made with)");
  command->footer(
      "Examples\n"
      "  quarry serve notes.idx --port 8080\n"
      "  quarry serve notes.idx --adapter law=./law-lora --api-key-file keys.txt\n"
      "  curl localhost:8080/v1/chat/completions -d '{\"model\":\"law\",\n"
      "    \"messages\":[{\"role\":\"user\",\"content\":\"when is the exam?\"}]}'");
  command->callback([arguments, &context] { serve(*arguments, context); });
}

}  // namespace quarry::cli
