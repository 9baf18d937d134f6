// /v1/adapters: the adapters that this server can answer with, and, below an --adapter-root,
// changes to them while requests run. Answers describe the state after the change.
#include <algorithm>

#include "api/http/context.h"
#include "api/http/fields.h"

namespace quarry::http {
namespace {

namespace fs = std::filesystem;

void check_allowed(const ServerContext& context) {
  if (!context.options.adapter_root.empty()) return;
  ApiError error(403,
                 "this server's adapters cannot be changed over HTTP; start it with "
                 "`quarry serve --adapter-root DIR` to allow it, for adapters below DIR");
  error.code = "adapter_changes_disabled";
  error.repeatable = false;
  throw error;
}

AdapterSet& adapters_of(const ServerContext& context) {
  if (context.base_model.empty()) {
    throw ApiError(404, "this server was started without a generator: it only searches");
  }
  return context.pipeline.engine().adapters();
}

bool is_below(const fs::path& path, const fs::path& root) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

// The folder that `path` (absolute, or from the root) means once every link is followed. Neither it
// nor a file that is read from it may lie outside the root.
fs::path adapter_folder(const fs::path& root, const std::string& path) {
  const auto resolve = [&](const fs::path& file) {
    std::error_code error;
    fs::path resolved = fs::weakly_canonical(file, error);
    if (error || !is_below(resolved, root)) {
      throw bad_request("path", "'path' is '" + path + "', which does not lie below " +
                                    root.string() + ", the server's --adapter-root");
    }
    return resolved;
  };
  const bool has_nul = path.find('\0') != std::string::npos;
  if (path.empty() || has_nul) throw bad_request("path", "'path' is not the path of a folder");
  fs::path folder = resolve(root / path);
  for (const char* file :
       {"adapter_config.json", "adapter_model.safetensors", "quarry_adapter.json"}) {
    resolve(folder / file);
  }
  return folder;
}

std::string read_name(const ServerContext& context, const Fields& fields) {
  std::string name = fields.string("name").value_or("");
  if (name.empty()) throw bad_request("name", "'name' is missing");
  if (name == context.base_model) {
    throw bad_request("name", "'name' is '" + name + "', the base model's");
  }
  return name;
}

AdapterMix read_weights(const Fields& fields) {
  const char* const wanted = "an object {adapter: number} that is not empty";
  const Json* weights = fields.find("weights");
  if (weights == nullptr) throw bad_request("weights", "'weights' is missing");
  if (!weights->is_object() || weights->empty()) fields.fail("weights", wanted);
  AdapterMix mix;
  for (const auto& [name, weight] : weights->items()) {
    if (!weight.is_number()) fields.fail("weights", wanted);
    mix[name] = weight.get<double>();
  }
  return mix;
}

// Runs a change; an adapter whose files are damaged is the client's mistake, not the server's.
template <typename Change>
void apply(const Change& change) {
  try {
    change();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCorruptData) throw ApiError(400, error.what());
    throw;
  }
}

OrderedJson mix_json(const AdapterMix& mix) {
  return mix.empty() ? OrderedJson() : OrderedJson(mix);
}

OrderedJson listing_json(const ServerContext& context, const AdapterSet::Listing& listing) {
  OrderedJson json;
  json["name"] = listing.name;
  json["origin"] = listing.origin.empty() ? OrderedJson() : OrderedJson(listing.origin);
  json["weights"] = mix_json(listing.parts);
  json["rank"] = listing.rank;
  json["scale"] = listing.scale;
  json["default"] = listing.name == context.options.ask.adapter;
  json["requests_in_flight"] = listing.requests_in_flight;
  return json;
}

void write_list(const ServerContext& context, httplib::Response& response) {
  const AdapterSet& adapters = adapters_of(context);
  OrderedJson body;
  body["object"] = "list";
  body["data"] = OrderedJson::array();
  for (const AdapterSet::Listing& listing : adapters.list()) {
    body["data"].push_back(listing_json(context, listing));
  }
  body["base"]["model"] = context.base_model;
  body["base"]["fused"] = mix_json(adapters.fused());
  body["base"]["requests_in_flight"] = adapters.base_requests_in_flight();
  write_json(body, response);
}

}  // namespace

void handle_adapters(ServerContext& context, Exchange&, const httplib::Request&,
                     httplib::Response& response) {
  write_list(context, response);
}

// {"name", "path", "replace"}
void handle_adapter_load(ServerContext& context, Exchange&, const httplib::Request& request,
                         httplib::Response& response) {
  check_allowed(context);
  AdapterSet& adapters = adapters_of(context);
  const Json body = parse_body(request.body);
  const Fields fields(body);
  const std::string name = read_name(context, fields);
  const fs::path folder =
      adapter_folder(context.options.adapter_root, fields.string("path").value_or(""));
  const bool replace = fields.boolean("replace").value_or(false);
  apply([&] { replace ? adapters.replace(name, folder) : adapters.load(name, folder); });
  write_list(context, response);
}

void handle_adapter_remove(ServerContext& context, Exchange& exchange, const httplib::Request&,
                           httplib::Response& response) {
  check_allowed(context);
  AdapterSet& adapters = adapters_of(context);
  if (exchange.path_tail == context.options.ask.adapter) {
    throw bad_request("name", "adapter '" + exchange.path_tail +
                                  "' answers requests that name no model and cannot be removed; "
                                  "it can be replaced");
  }
  adapters.remove(exchange.path_tail);
  write_list(context, response);
}

// {"name", "weights": {adapter: weight}}
void handle_adapter_combine(ServerContext& context, Exchange&, const httplib::Request& request,
                            httplib::Response& response) {
  check_allowed(context);
  AdapterSet& adapters = adapters_of(context);
  const Json body = parse_body(request.body);
  const Fields fields(body);
  const std::string name = read_name(context, fields);
  adapters.combine(name, read_weights(fields));
  write_list(context, response);
}

// {"weights": {adapter: weight}}
void handle_adapter_fuse(ServerContext& context, Exchange&, const httplib::Request& request,
                         httplib::Response& response) {
  check_allowed(context);
  AdapterSet& adapters = adapters_of(context);
  const Json body = parse_body(request.body);
  adapters.fuse(read_weights(Fields(body)));
  write_list(context, response);
}

void handle_adapter_unfuse(ServerContext& context, Exchange&, const httplib::Request&,
                           httplib::Response& response) {
  check_allowed(context);
  adapters_of(context).unfuse();
  write_list(context, response);
}

}  // namespace quarry::http
