#include "api/http/context.h"

#include <algorithm>
#include <ctime>
#include <random>

namespace quarry::http {
namespace {

std::string base_model_name(const Pipeline& pipeline, const ServerOptions& options) {
  const LoadedGenerator* generator = pipeline.engine().generator();
  if (generator == nullptr) return "";
  return options.model_name.empty() ? generator->name : options.model_name;
}

}  // namespace

ServerContext::ServerContext(const Pipeline& pipeline_arg, const ServerOptions& options_arg)
    : pipeline(pipeline_arg),
      options(options_arg),
      base_model(base_model_name(pipeline_arg, options_arg)),
      created(unix_seconds()) {}

std::string ServerContext::adapter_of(const std::string& model, bool retrieves) const {
  if (base_model.empty()) {
    throw bad_request("model", "this server was started without a generator: it only searches");
  }
  if (model.empty()) {
    return retrieves || !options.adapter_wants_passages ? options.ask.adapter : "";
  }
  if (model == base_model) return "";
  const std::vector<std::string> adapters = pipeline.engine().adapters().names();
  if (std::find(adapters.begin(), adapters.end(), model) != adapters.end()) return model;
  throw model_not_found(model, known_models());
}

std::string ServerContext::known_models() const {
  std::string names = base_model;
  for (const std::string& adapter : pipeline.engine().adapters().names()) names += ", " + adapter;
  return names;
}

OrderedJson adapter_json(const ServedAdapter& adapter) {
  return adapter.name.empty() ? OrderedJson() : OrderedJson(adapter.name);
}

void write_json(const OrderedJson& body, httplib::Response& response) {
  response.status = 200;
  response.set_content(dump_json(body), "application/json");
}

std::string make_id(const char* prefix) {
  thread_local std::mt19937_64 random{std::random_device{}()};
  static const char kDigits[] = "0123456789abcdef";
  std::string id = prefix;
  for (int i = 0; i < 24; ++i) id += kDigits[random() & 15];
  return id;
}

int64_t unix_seconds() { return static_cast<int64_t>(std::time(nullptr)); }

}  // namespace quarry::http
