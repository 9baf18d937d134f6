// GET /v1/models and /v1/models/{id}: the base model, its adapters and the embedder.
#include "api/http/context.h"

namespace quarry::http {
namespace {

OrderedJson model_json(const ServerContext& context, const std::string& id, const char* kind) {
  OrderedJson model;
  model["id"] = id;
  model["object"] = "model";
  model["created"] = context.created;
  model["owned_by"] = "quarry";
  model["kind"] = kind;  // beside OpenAI's fields
  return model;
}

// The base and its adapters; first what answers requests that name no model. "root" and "parent"
// are vLLM's: where it was read from, and the base of an adapter.
void list_generators(const ServerContext& context, const LoadedGenerator& generator,
                     OrderedJson& list) {
  const int64_t context_length = generator.model->config().max_seq_len;
  OrderedJson base = model_json(context, context.base_model, "base");
  base["root"] = generator.path.string();
  base["parent"] = nullptr;
  base["context_length"] = context_length;
  list.push_back(std::move(base));
  for (const AdapterSet::Listing& listing : context.pipeline.engine().adapters().list()) {
    OrderedJson adapter = model_json(context, listing.name, "adapter");
    adapter["root"] = listing.origin.empty() ? mix_text(listing.parts) : listing.origin;
    adapter["parent"] = context.base_model;
    adapter["context_length"] = context_length;
    const bool is_default = listing.name == context.options.ask.adapter;
    list.insert(is_default ? list.begin() : list.end(), std::move(adapter));
  }
}

OrderedJson list_models(const ServerContext& context) {
  OrderedJson list = OrderedJson::array();
  const LoadedGenerator* generator = context.pipeline.engine().generator();
  if (generator != nullptr) list_generators(context, *generator, list);
  if (const Embedder* embedder = context.pipeline.embedder()) {
    OrderedJson entry = model_json(context, embedder->name(), "embedding");
    entry["dimensions"] = embedder->dim();
    entry["context_length"] = embedder->max_tokens();
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace

void handle_models(ServerContext& context, Exchange&, const httplib::Request&,
                   httplib::Response& response) {
  OrderedJson body;
  body["object"] = "list";
  body["data"] = list_models(context);
  write_json(body, response);
}

void handle_model(ServerContext& context, Exchange& exchange, const httplib::Request&,
                  httplib::Response& response) {
  std::string known;
  for (const OrderedJson& model : list_models(context)) {
    const std::string id = model["id"].get<std::string>();
    if (id == exchange.path_tail) return write_json(model, response);
    known += (known.empty() ? "" : ", ") + id;
  }
  throw model_not_found(exchange.path_tail, known);
}

}  // namespace quarry::http
