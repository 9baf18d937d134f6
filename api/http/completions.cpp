// POST /v1/completions: raw continuation of one prompt, without retrieval or chat template.
#include <memory>

#include "api/answer_json.h"
#include "api/http/constraint.h"
#include "api/http/generation.h"
#include "api/http/sse.h"
#include "api/logprobs_json.h"
#include "data/text/utf8.h"

namespace quarry::http {
namespace {

constexpr int64_t kDefaultMaxTokens = 16;  // OpenAI's
constexpr int64_t kMostLogprobs = 5;       // OpenAI's

struct CompletionPlan {
  std::string id = make_id("cmpl-");
  int64_t created = unix_seconds();
  std::string model;
  OrderedJson adapter;
  bool include_usage = false;
  bool with_logprobs = false;
  int64_t text_offset = 0;  // of the next token, in code points
  const Tokenizer* tokenizer = nullptr;
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

// OpenAI's older form: one list for each property.
OrderedJson token_lists_json(CompletionPlan& plan, const std::vector<TokenLogprobs>& logprobs) {
  if (!plan.with_logprobs) return nullptr;
  OrderedJson lists;
  for (const char* name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    lists[name] = OrderedJson::array();
  }
  for (const TokenLogprobs& token : logprobs) {
    const std::string text = token_text(*plan.tokenizer, token.token);
    lists["tokens"].push_back(text);
    lists["token_logprobs"].push_back(finite_logprob(token.logprob));
    OrderedJson top = OrderedJson::object();
    for (const TokenLogprobs::Alternative& other : token.top) {
      top[token_text(*plan.tokenizer, other.token)] = finite_logprob(other.logprob);
    }
    lists["top_logprobs"].push_back(std::move(top));
    lists["text_offset"].push_back(plan.text_offset);
    plan.text_offset += count_code_points(text);
  }
  return lists;
}

OrderedJson completion_json(CompletionPlan& plan, const TextPiece& piece,
                            const OrderedJson& finish_reason) {
  OrderedJson choice;
  choice["text"] = piece.text;
  choice["index"] = 0;
  choice["logprobs"] = token_lists_json(plan, piece.logprobs);
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
  const auto send = [&](const TextPiece& piece, const OrderedJson& finish_reason) {
    OrderedJson chunk = completion_json(plan, piece, finish_reason);
    if (plan.include_usage) chunk["usage"] = nullptr;
    writer.event(chunk);
  };
  const GenerateResult result = plan.generation->wait(
      [&](const TextPiece& piece) { send(piece, nullptr); }, [&] { writer.ping(); });
  send({}, openai_finish_reason(result.finish_reason));
  if (plan.include_usage) {
    OrderedJson last = completion_json(plan, {}, nullptr);
    last["choices"] = OrderedJson::array();
    last["usage"] = usage_json(result);
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
  const std::string adapter = context.adapter_of(plan->model, false);
  if (plan->model.empty()) plan->model = context.model_of(adapter);
  fields.only_false("echo");
  const std::optional<int64_t> logprobs = fields.integer("logprobs", 0, kMostLogprobs);
  fields.only_empty("suffix", "this server does not fill in the middle");
  const GenerationParameters parameters =
      read_generation_parameters(fields, context.options.ask, kDefaultMaxTokens);
  plan->include_usage = parameters.include_usage;
  plan->with_logprobs = logprobs.has_value();
  plan->tokenizer = context.pipeline.engine().generator()->tokenizer.get();
  generate.top_logprobs = logprobs.value_or(-1);
  generate.prompt = read_prompt(fields, *plan->tokenizer);
  check_context_length(context, "prompt", static_cast<int64_t>(generate.prompt.size()));
  generate.max_tokens = parameters.max_tokens;
  generate.stop = parameters.stop;
  generate.sampling = parameters.sampling;
  generate.constraint = read_constraint(context, fields, request.body);
  generate.served = context.pipeline.engine().adapters().acquire(adapter);
  plan->adapter = adapter_json(*generate.served);
  plan->generation = std::make_unique<Generation>(context, exchange, std::move(generate));
  if (parameters.stream) {
    stream_events(exchange, response,
                  [plan](SseWriter& writer) { stream_completion(*plan, writer); });
    return;
  }
  const GenerateResult result = plan->generation->wait(nullptr, nullptr);
  OrderedJson answer = completion_json(*plan, {result.text, result.logprobs},
                                       openai_finish_reason(result.finish_reason));
  answer["usage"] = usage_json(result);
  write_json(answer, response);
}

}  // namespace quarry::http
