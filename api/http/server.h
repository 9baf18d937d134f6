#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/pipeline.h"

namespace quarry {

// One finished HTTP exchange, for an access log.
struct AccessRecord {
  std::string remote;  // address of the client
  std::string method;
  std::string path;  // decoded, without the query
  int status = 0;    // 499: the client left before the end
  double seconds = 0.0;
};

struct ServerOptions {
  std::string host = "127.0.0.1";     // 0.0.0.0 or :: shows the server to the network
  int port = 8080;                    // 0: any free one, bind() returns it
  std::vector<std::string> api_keys;  // empty: no key is asked for
  std::string model_name;             // id of the base model; empty: the generator's own name
  std::string cors_origin;            // "*" or one origin that browsers may call from; empty: none

  int64_t max_payload_bytes = int64_t{32} << 20;  // larger bodies get 413 and are not kept
  int64_t max_connections = 512;                  // one thread each; more get 503
  double header_timeout_seconds = 10.0;           // a request's line and headers, in all
  double body_timeout_seconds = 60.0;             // a request's body, in all
  double write_timeout_seconds = 10.0;  // a client that takes no byte for so long is dropped
  double keep_alive_timeout_seconds = 15.0;
  double drain_timeout_seconds = 30.0;  // what is running at stop() may take this long

  // Defaults of a chat request: passages, search mode, max_tokens, sampling, relevance threshold;
  // ask.adapter is what answers requests that name no model.
  AskOptions ask;
  // That adapter was made for answers from passages: without retrieval the base model writes.
  bool adapter_wants_passages = false;
  // Clients may change the engine's adapters, and load those below this folder, as its canonical
  // path; empty: they may not.
  std::filesystem::path adapter_root;

  // Called on the connection's thread after each exchange; must be thread-safe. May be empty.
  std::function<void(const AccessRecord&)> on_request;
};

// API keys from a file: one per line; blank lines and lines that begin with # are skipped.
// Throws kNotFound; kInvalidArgument when it holds no key or a key with spaces or control bytes.
std::vector<std::string> load_api_keys(const std::filesystem::path& path);

// The HTTP API: OpenAI-shaped chat, completions, embeddings and models; /v1/adapters, /v1/search,
// /documents, /healthz, /readyz, /metrics and the page at /. Every connection has a thread of its
// own, so open streams do not hold up other clients.
//
// bind() and run() by one thread; stop() from any thread or signal handler.
class Server {
 public:
  // `pipeline` is kept by reference and must outlive the server.
  Server(const Pipeline& pipeline, ServerOptions options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Opens the port and returns it. Throws kUnavailable naming host and port when it is taken or not
  // allowed, kInvalidArgument for a host that is no address of this machine.
  int bind();

  // Serves until stop(). After stop(): /readyz answers 503 and so does new work; what is running
  // may finish within drain_timeout_seconds; the rest is cancelled, streams with an error event.
  // Then the port is closed and run() returns. Throws kInvalidArgument before bind().
  void run();

  // Async-signal-safe; more calls do nothing.
  void stop() noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quarry
