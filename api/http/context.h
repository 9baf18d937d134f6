#pragma once

#include <httplib.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <string>

#include "api/http/connection.h"
#include "api/http/errors.h"
#include "api/http/metrics.h"
#include "api/http/server.h"

namespace quarry::http {

// What all connections share. Immutable but for the atomics and the metrics.
struct ServerContext {
  ServerContext(const Pipeline& pipeline, const ServerOptions& options);

  const Pipeline& pipeline;
  const ServerOptions& options;
  const std::string base_model;  // id of the base model; empty when nothing can be generated
  const int64_t created;         // seconds since 1970, of the server's start
  Metrics metrics;
  std::atomic<bool> draining{false};    // no new work
  std::atomic<bool> cancelling{false};  // running work must end now
  std::atomic<int64_t> active{0};       // admitted requests that have not ended

  // Adapter that `model` names: "" for the base model, for no name the default one. Throws
  // model_not_found.
  std::string adapter_of(const std::string& model, bool retrieves) const;
  // The other way: what a response names as its model.
  const std::string& model_of(const std::string& adapter) const {
    return adapter.empty() ? base_model : adapter;
  }
  std::string known_models() const;  // "a, b, c"
};

struct Route;

// One request on one connection.
struct Exchange {
  Connection* connection = nullptr;
  const Route* route = nullptr;  // null: no such path
  std::string method;
  std::string path;
  std::string path_tail;              // what follows a route that ends in '/'
  std::optional<ApiError> rejection;  // decided from the headers alone; the body is not read
  std::chrono::steady_clock::time_point start;
  int status = 0;            // as sent
  bool client_left = false;  // counted as 499

  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

// Writes the response, or throws: quarry::Error and ApiError become error objects. A handler that
// streams sets a content provider; `exchange` lives until the provider is done.
using Handler = void (*)(ServerContext& context, Exchange& exchange,
                         const httplib::Request& request, httplib::Response& response);

// One file per family defines its handlers.
void handle_chat(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_completion(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_embeddings(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_models(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_model(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_adapters(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_adapter_load(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_adapter_remove(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_adapter_combine(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_adapter_fuse(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_adapter_unfuse(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_search(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_document(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_health(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_ready(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_metrics(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);
void handle_page(ServerContext&, Exchange&, const httplib::Request&, httplib::Response&);

// "adapter" of a response: its name, null for the base model.
OrderedJson adapter_json(const ServedAdapter& adapter);

void write_json(const OrderedJson& body, httplib::Response& response);

// "chatcmpl-" and 24 random hexadecimal digits.
std::string make_id(const char* prefix);
int64_t unix_seconds();

}  // namespace quarry::http
