// POST /v1/chat/completions: an answer from the documents (or, with retrieval off, from the model
// alone), whole or as server-sent events.
#include <chrono>
#include <functional>
#include <memory>

#include "api/answer_json.h"
#include "api/http/constraint.h"
#include "api/http/generation.h"
#include "api/http/sources.h"
#include "api/http/sse.h"
#include "api/logprobs_json.h"
#include "generator/prompt.h"

namespace quarry::http {
namespace {

struct ChatRequest {
  std::vector<ChatMessage> messages;
  GenerationParameters parameters;
  std::string model;  // as it is named in the response
  bool retrieve = true;
  AskOptions ask;
};

// What is known before the first token.
struct ChatPlan {
  std::string id = make_id("chatcmpl-");
  int64_t created = unix_seconds();
  std::string model;
  bool retrieve = true;
  bool include_usage = false;
  bool with_logprobs = false;
  const Tokenizer* tokenizer = nullptr;
  Pipeline::Prepared prepared;
  std::unique_ptr<Generation> generation;  // null: the documents hold no answer, or `latent` is set
  // Set where decoding is over latent passages: the answer is made on the connection's thread.
  std::function<Answer(const Engine::OnText&)> latent;
  std::vector<LatentPassage> passages;  // known once it is made
};

struct ChatResult {
  std::string text;
  bool answered = true;  // false: the text says that the documents do not hold the answer
  const char* finish_reason = "stop";
  GenerateResult generated;  // empty when nothing was
};

std::string read_content(const Json& message, const std::string& where) {
  const Fields fields(message, where + ".");
  const Json* content = fields.find("content");
  if (content == nullptr) throw bad_request(where, "'" + where + ".content' is missing");
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) fields.fail("content", "a string or an array of text parts");
  std::string text;
  for (const Json& part : *content) {
    const bool is_text = part.is_object() && part.value("type", Json()) == Json("text") &&
                         part.contains("text") && part["text"].is_string();
    if (!is_text) fields.fail("content", "text parts only, {\"type\": \"text\", \"text\": ...}");
    text += part["text"].get<std::string>();
  }
  return text;
}

std::vector<ChatMessage> read_messages(const Fields& fields) {
  const Json* list = fields.find("messages");
  if (list == nullptr) throw bad_request("messages", "'messages' is missing");
  if (!list->is_array() || list->empty()) fields.fail("messages", "a non-empty array");
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& item = (*list)[i];
    const std::string where = concat("messages[", i, "]");
    if (!item.is_object()) throw bad_request(where, "'" + where + "' is not an object");
    const Fields message(item, where + ".");
    std::string role = message.string("role").value_or("");
    if (role == "developer") role = "system";  // OpenAI's newer name
    if (role != "system" && role != "user" && role != "assistant") {
      throw bad_request(where + ".role", concat("'", where, ".role' is '", role,
                                                "', expected system, user or assistant"));
    }
    messages.push_back({role, read_content(item, where)});
  }
  if (messages.back().role != "user") {
    throw bad_request(
        "messages", "the last message has the role '" + messages.back().role + "', expected user");
  }
  return messages;
}

void refuse_unsupported(const Fields& fields) {
  const std::string no_tools = "this server does not call tools";
  fields.only_empty("tools", no_tools);
  fields.only_empty("functions", no_tools);
  const Json* choice = fields.find("tool_choice");
  if (choice != nullptr && *choice != "none" && *choice != "auto") {
    fields.fail("tool_choice", "none: " + no_tools);
  }
}

// -1 unless `logprobs` is true.
int64_t read_top_logprobs(const Fields& fields) {
  const bool with_logprobs = fields.boolean("logprobs").value_or(false);
  const std::optional<int64_t> top = fields.integer("top_logprobs", 0, kMostTopLogprobs);
  if (!with_logprobs && top.value_or(0) > 0) {
    fields.fail("top_logprobs", "nothing unless 'logprobs' is true");
  }
  return with_logprobs ? top.value_or(0) : -1;
}

// `retrieval`: true, false or {"enabled", "top_k", "mode", "filter", "min_relevance", ...}.
void read_retrieval(const Fields& fields, const Pipeline& pipeline, ChatRequest& chat) {
  const bool has_index = pipeline.retriever() != nullptr;
  chat.retrieve = has_index;
  const Json* value = fields.find("retrieval");
  if (value == nullptr) return;
  if (value->is_boolean()) {
    chat.retrieve = value->get<bool>();
  } else if (value->is_object()) {
    const Fields retrieval(*value, "retrieval.");
    chat.retrieve = retrieval.boolean("enabled").value_or(true);
    chat.ask.search =
        read_search_options(retrieval, chat.ask.search, pipeline.reranker() != nullptr);
    chat.ask.min_relevance =
        retrieval.number("min_relevance", -1.0, 1e6).value_or(chat.ask.min_relevance);
    chat.ask.refusal_bias =
        retrieval.number("refusal_bias", -1e6, 1e6).value_or(chat.ask.refusal_bias);
    chat.ask.prior_temperature =
        retrieval.number("prior_temperature", 1e-4, 1e4).value_or(chat.ask.prior_temperature);
    chat.ask.decode = retrieval.choice("decode", parse_decoding).value_or(chat.ask.decode);
  } else {
    fields.fail("retrieval", "true, false or an object");
  }
  if (chat.retrieve && !has_index) {
    throw bad_request("retrieval", "this server was started without an index");
  }
}

ChatRequest read_chat_request(const ServerContext& context, const std::string& text) {
  const Json body = parse_body(text);
  const Fields fields(body);
  ChatRequest chat;
  chat.model = fields.string("model").value_or("");
  context.adapter_of(chat.model, true);  // a model that is not there is what a client hears first
  refuse_unsupported(fields);
  chat.messages = read_messages(fields);
  chat.ask = context.options.ask;
  chat.parameters = read_generation_parameters(fields, chat.ask, chat.ask.max_tokens);
  read_retrieval(fields, context.pipeline, chat);
  chat.ask.adapter = context.adapter_of(chat.model, chat.retrieve);
  if (chat.model.empty()) chat.model = context.model_of(chat.ask.adapter);
  chat.ask.max_tokens = chat.parameters.max_tokens;
  chat.ask.sampling = chat.parameters.sampling;
  chat.ask.stop = chat.parameters.stop;
  chat.ask.top_logprobs = read_top_logprobs(fields);
  chat.ask.constraint = read_constraint(context, fields, text);
  return chat;
}

// Searches and renders the prompt. With retrieval, old turns and passages make room for the last
// question; a question that alone is too long is refused here, before the search.
Pipeline::Prepared prepare(const ServerContext& context, const ChatRequest& chat) {
  const LoadedGenerator& generator = *context.pipeline.engine().generator();
  if (!chat.retrieve) {
    Pipeline::Prepared prepared;
    prepared.adapter = context.pipeline.engine().adapters().acquire(chat.ask.adapter);
    prepared.prompt = render_chat(generator, chat.messages);
    prepared.relevant = true;
    return prepared;
  }
  const ChatMessage& question = chat.messages.back();
  const int64_t most = generator.model->config().max_seq_len;
  if (static_cast<int64_t>(question.content.size()) >= most) {  // a token has at least one byte
    const size_t tokens = render_chat(generator, {question}).size();
    check_context_length(context, "messages", static_cast<int64_t>(tokens));
  }
  try {
    return context.pipeline.prepare(chat.messages, chat.ask);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument) throw;
    const bool is_latent = chat.ask.decode != Decoding::kConcat;
    throw bad_request(is_latent ? "retrieval.decode" : "messages", error.what());
  }
}

std::shared_ptr<ChatPlan> make_plan(ServerContext& context, Exchange& exchange,
                                    const ChatRequest& chat) {
  auto plan = std::make_shared<ChatPlan>();
  plan->model = chat.model;
  plan->retrieve = chat.retrieve;
  plan->include_usage = chat.parameters.include_usage;
  plan->with_logprobs = chat.ask.top_logprobs >= 0;
  plan->tokenizer = context.pipeline.engine().generator()->tokenizer.get();
  plan->prepared = prepare(context, chat);
  if (!plan->prepared.relevant) return plan;
  if (!plan->prepared.passage_prompts.empty()) {
    plan->latent = [&context, &exchange, ask = chat.ask,
                    prepared = plan->prepared](const Engine::OnText& on_text) {
      Answer answer = context.pipeline.answer(prepared, ask, [&](const std::string& text) {
        return on_text(text) && !exchange.connection->client_gone() && !context.cancelling;
      });
      if (exchange.connection->client_gone()) throw ClientGone();
      if (context.cancelling) throw shutting_down();
      context.metrics.observe_first_token(exchange.seconds());
      return answer;
    };
    return plan;
  }
  check_context_length(context, "messages", static_cast<int64_t>(plan->prepared.prompt.size()));
  GenerateRequest request;
  request.prompt = std::move(plan->prepared.prompt);
  request.first_token_bias = plan->prepared.first_token_bias;
  request.max_tokens = chat.parameters.max_tokens;
  request.stop = chat.parameters.stop;
  request.sampling = chat.parameters.sampling;
  request.top_logprobs = chat.ask.top_logprobs;
  request.constraint = chat.ask.constraint;
  request.served = plan->prepared.adapter;
  plan->generation = std::make_unique<Generation>(context, exchange, std::move(request));
  return plan;
}

// Beside OpenAI's fields: whether the documents answer, and every passage in the prompt, if so. A
// stream says it before the first word as far as it is known then.
OrderedJson retrieval_of(const ChatPlan& plan, bool answered) {
  if (!plan.retrieve) return nullptr;
  return retrieval_json(answered, plan.prepared.search_seconds, plan.prepared.citations,
                        plan.passages);
}

OrderedJson annotations_of(const ChatPlan& plan, const ChatResult& result) {
  return result.answered ? annotations_json(result.text, plan.prepared.citations)
                         : OrderedJson::array();
}

OrderedJson choice_logprobs_json(const ChatPlan& plan, const std::vector<TokenLogprobs>& logprobs) {
  if (!plan.with_logprobs) return nullptr;
  return {{"content", logprobs_json(*plan.tokenizer, logprobs)}, {"refusal", nullptr}};
}

// `on_idle` is called as often as while waiting for the engine, so that a stream stays open.
ChatResult run_latent(ChatPlan& plan, const std::function<void(const TextPiece&)>& on_text,
                      const std::function<void()>& on_idle) {
  constexpr double kIdleSeconds = 5.0;
  using Clock = std::chrono::steady_clock;
  Clock::time_point last_sign_of_life = Clock::now();
  Answer answer = plan.latent([&](const std::string& text) {
    const Clock::time_point now = Clock::now();
    if (!text.empty()) {
      if (on_text) on_text({text, {}});
    } else if (on_idle &&
               std::chrono::duration<double>(now - last_sign_of_life).count() > kIdleSeconds) {
      on_idle();
      last_sign_of_life = now;
    }
    return true;
  });
  plan.passages = std::move(answer.latent);
  ChatResult result;
  result.text = std::move(answer.text);
  result.answered = answer.answered;
  result.finish_reason = openai_finish_reason(answer.generation.finish_reason);
  result.generated = std::move(answer.generation);
  return result;
}

ChatResult run(ChatPlan& plan, const std::function<void(const TextPiece&)>& on_text,
               const std::function<void()>& on_idle) {
  if (plan.latent) return run_latent(plan, on_text, on_idle);
  ChatResult result;
  if (plan.generation == nullptr) {
    result.text = plan.prepared.adapter->not_in_documents;
    result.answered = false;
    if (on_text) on_text({result.text, {}});
    return result;
  }
  result.generated = plan.generation->wait(on_text, on_idle);
  result.text = result.generated.text;
  result.answered = !plan.retrieve || !says_not_in_documents(result.text, *plan.prepared.adapter);
  result.finish_reason = openai_finish_reason(result.generated.finish_reason);
  return result;
}

OrderedJson chunk_json(const ChatPlan& plan, OrderedJson delta, const OrderedJson& finish_reason) {
  OrderedJson choice;
  choice["index"] = 0;
  choice["delta"] = std::move(delta);
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish_reason;
  OrderedJson chunk;
  chunk["id"] = plan.id;
  chunk["object"] = "chat.completion.chunk";
  chunk["created"] = plan.created;
  chunk["model"] = plan.model;
  chunk["adapter"] = adapter_json(*plan.prepared.adapter);
  chunk["choices"] = OrderedJson::array({std::move(choice)});
  if (plan.include_usage) chunk["usage"] = nullptr;
  return chunk;
}

void stream_chat(ChatPlan& plan, SseWriter& writer) {
  OrderedJson first = chunk_json(plan, {{"role", "assistant"}, {"content", ""}}, nullptr);
  first["retrieval"] = retrieval_of(plan, plan.prepared.relevant);
  writer.event(first);
  const ChatResult result = run(
      plan,
      [&](const TextPiece& piece) {
        OrderedJson chunk = chunk_json(plan, {{"content", piece.text}}, nullptr);
        chunk["choices"][0]["logprobs"] = choice_logprobs_json(plan, piece.logprobs);
        writer.event(chunk);
      },
      [&] { writer.ping(); });
  if (plan.retrieve) {
    OrderedJson marks = chunk_json(plan, {{"annotations", annotations_of(plan, result)}}, nullptr);
    const bool changed = plan.prepared.relevant && !result.answered;
    if (changed || !plan.passages.empty()) {
      marks["retrieval"] = retrieval_of(plan, result.answered);
    }
    writer.event(marks);
  }
  writer.event(chunk_json(plan, OrderedJson::object(), result.finish_reason));
  if (plan.include_usage) {
    OrderedJson last = chunk_json(plan, OrderedJson::object(), nullptr);
    last["choices"] = OrderedJson::array();
    last["usage"] = usage_json(result.generated);
    writer.event(last);
  }
  writer.done();
}

OrderedJson completion_json(const ChatPlan& plan, const ChatResult& result) {
  OrderedJson message;
  message["role"] = "assistant";
  message["content"] = result.text;
  message["refusal"] = nullptr;
  message["annotations"] = annotations_of(plan, result);
  OrderedJson choice;
  choice["index"] = 0;
  choice["message"] = std::move(message);
  choice["logprobs"] = choice_logprobs_json(plan, result.generated.logprobs);
  choice["finish_reason"] = result.finish_reason;
  OrderedJson body;
  body["id"] = plan.id;
  body["object"] = "chat.completion";
  body["created"] = plan.created;
  body["model"] = plan.model;
  body["adapter"] = adapter_json(*plan.prepared.adapter);
  body["choices"] = OrderedJson::array({std::move(choice)});
  body["usage"] = usage_json(result.generated);
  body["retrieval"] = retrieval_of(plan, result.answered);
  return body;
}

}  // namespace

void handle_chat(ServerContext& context, Exchange& exchange, const httplib::Request& request,
                 httplib::Response& response) {
  const ChatRequest chat = read_chat_request(context, request.body);
  const std::shared_ptr<ChatPlan> plan = make_plan(context, exchange, chat);
  if (chat.parameters.stream) {
    stream_events(exchange, response, [plan](SseWriter& writer) { stream_chat(*plan, writer); });
    return;
  }
  const ChatResult result = run(*plan, nullptr, nullptr);
  write_json(completion_json(*plan, result), response);
}

}  // namespace quarry::http
