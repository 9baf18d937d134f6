// POST /v1/completions: raw continuation of one prompt, without retrieval or chat template.
#include <memory>

#include "api/http/generation.h"
#include "api/http/sse.h"

namespace quarry::http {
namespace {

constexpr int64_t kDefaultMaxTokens = 16;  // OpenAI's

struct CompletionPlan {
  std::string id = make_id("cmpl-");
  int64_t created = unix_seconds();
  std::string model;
  OrderedJson adapter;
  bool include_usage = false;
  std::unique_ptr<Generation> generation;
};

bool is_token_list(const Json& value) {
  if (!value.is_array() || value.empty()) return false;
  for (const Json& item : value) {
    if (!item.is_number_integer()) return false;
  }
  return true;
}

std::vector<int32_t> read_token_ids(const Fields& fields, const Json& list, int64_t vocab_size) {
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const Json& item : list) {
    const double id = item.get<double>();
    if (id < 0 || id >= static_cast<double>(vocab_size)) {
      fields.fail("prompt", concat("token ids from 0 to ", vocab_size - 1));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

// A string, an array of one string, token ids, or an array of one list of token ids.
std::vector<int32_t> read_prompt(const Fields& fields, const Tokenizer& tokenizer) {
  const Json* prompt = fields.find("prompt");
  if (prompt == nullptr) throw bad_request("prompt", "'prompt' is missing");
  if (is_token_list(*prompt)) return read_token_ids(fields, *prompt, tokenizer.vocab_size());
  if (prompt->is_array()) {
    if (prompt->size() != 1) {
      throw bad_request("prompt", concat("'prompt' holds ", prompt->size(),
                                         " prompts, expected one per request"));
    }
    prompt = &prompt->front();
    if (is_token_list(*prompt)) return read_token_ids(fields, *prompt, tokenizer.vocab_size());
  }
  if (!prompt->is_string()) fields.fail("prompt", "a string or an array of token ids");
  const std::string text = prompt->get<std::string>();
  if (text.empty()) fields.fail("prompt", "a text that is not empty");
  return tokenizer.encode(text, Tokenizer::SpecialTokens::kAdd);
}

OrderedJson completion_json(const CompletionPlan& plan, const std::string& text,
                            const OrderedJson& finish_reason) {
  OrderedJson choice;
  choice["text"] = text;
  choice["index"] = 0;
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish_reason;
  OrderedJson body;
  body["id"] = plan.id;
  body["object"] = "text_completion";
  body["created"] = plan.created;
  body["model"] = plan.model;
  body["adapter"] = plan.adapter;  // beside OpenAI's fields
  body["choices"] = OrderedJson::array({std::move(choice)});
  return body;
}

void stream_completion(CompletionPlan& plan, SseWriter& writer) {
  const auto send = [&](const std::string& text, const OrderedJson& finish_reason) {
    OrderedJson chunk = completion_json(plan, text, finish_reason);
    if (plan.include_usage) chunk["usage"] = nullptr;
    writer.event(chunk);
  };
  const GenerateResult result = plan.generation->wait(
      [&](const std::string& text) { send(text, nullptr); }, [&] { writer.ping(); });
  send("", openai_finish_reason(result.finish_reason));
  if (plan.include_usage) {
    OrderedJson last = completion_json(plan, "", nullptr);
    last["choices"] = OrderedJson::array();
    last["usage"] = usage_json(result.prompt_tokens, result.completion_tokens);
    writer.event(last);
  }
  writer.done();
}

}  // namespace

void handle_completion(ServerContext& context, Exchange& exchange, const httplib::Request& request,
                       httplib::Response& response) {
  const Json body = parse_body(request.body);
  const Fields fields(body);
  auto plan = std::make_shared<CompletionPlan>();
  plan->model = fields.string("model").value_or("");
  GenerateRequest generate;
  const std::string adapter = context.adapter_of(plan->model);
  if (plan->model.empty()) plan->model = context.model_of(adapter);
  fields.only_false("echo");
  fields.only_zero("logprobs");
  fields.only_empty("suffix", "this server does not fill in the middle");
  const GenerationParameters parameters =
      read_generation_parameters(fields, context.options.ask, kDefaultMaxTokens);
  plan->include_usage = parameters.include_usage;
  generate.prompt = read_prompt(fields, *context.pipeline.engine().generator()->tokenizer);
  check_context_length(context, "prompt", static_cast<int64_t>(generate.prompt.size()));
  generate.max_tokens = parameters.max_tokens;
  generate.stop = parameters.stop;
  generate.sampling = parameters.sampling;
  generate.served = context.pipeline.engine().adapters().acquire(adapter);
  plan->adapter = adapter_json(*generate.served);
  plan->generation = std::make_unique<Generation>(context, exchange, std::move(generate));
  if (parameters.stream) {
    stream_events(exchange, response,
                  [plan](SseWriter& writer) { stream_completion(*plan, writer); });
    return;
  }
  const GenerateResult result = plan->generation->wait(nullptr, nullptr);
  OrderedJson answer =
      completion_json(*plan, result.text, openai_finish_reason(result.finish_reason));
  answer["usage"] = usage_json(result.prompt_tokens, result.completion_tokens);
  write_json(answer, response);
}

}  // namespace quarry::http
