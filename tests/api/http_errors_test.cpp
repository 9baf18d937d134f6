#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "api/http/server.h"
#include "data/core/error.h"
#include "tests/api/http_rig.h"
#include "tests/support/temporary_folder.h"

namespace quarry::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

void expect_openai_error(const HttpRig::Reply& reply, int status, const std::string& message) {
  EXPECT_EQ(reply.status, status) << reply.body;
  ASSERT_EQ(reply.header("Content-Type"), "application/json") << reply.body;
  const Json error = reply.json().at("error");
  for (const char* key : {"message", "type", "param", "code"}) EXPECT_TRUE(error.contains(key));
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(message));
}

// One chat request with `field` set to `value`.
HttpRig::Reply chat_with(const HttpRig& rig, const std::string& field, const Json& value) {
  Json body = chat_body("who built the engine?");
  body[field] = value;
  return rig.post("/v1/chat/completions", body);
}

TEST(HttpErrors, FieldsOutOfRangeNameFieldValueAndRange) {
  HttpRig rig;
  const struct {
    const char* field;
    Json value;
    const char* message;
  } cases[] = {
      {"temperature", 5, "'temperature' is 5, expected a number from 0 to 2"},
      {"temperature", "hot", "'temperature' is \"hot\", expected a number from 0 to 2"},
      {"top_p", -0.5, "'top_p' is -0.5, expected a number from 0 to 1"},
      {"max_tokens", 0, "'max_tokens' is 0, expected a whole number from 1 to"},
      {"max_completion_tokens", 1.5, "'max_completion_tokens' is 1.5, expected a whole number"},
      {"n", 2, "'n' is 2, expected 1: this server makes one answer per request"},
      {"frequency_penalty", 0.5, "'frequency_penalty' is 0.5, expected 0"},
      {"logprobs", 5, "'logprobs' is 5, expected true or false"},
      {"top_logprobs", 21, "'top_logprobs' is 21, expected a whole number from 0 to 20"},
      {"top_logprobs", 2, "'top_logprobs' is 2, expected nothing unless 'logprobs' is true"},
      {"stream", "yes", "'stream' is \"yes\", expected true or false"},
      {"stop", Json{"a", 1}, "expected a string or an array of non-empty strings"},
      {"stop", "", "expected a string or an array of non-empty strings"},
      {"tools", Json{{{"type", "function"}}}, "this server does not call tools"},
      {"tool_choice", "required", "this server does not call tools"},
      {"logit_bias", Json{{"5", 1}}, "expected nothing"},
      {"messages", Json::array(), "'messages' is [], expected a non-empty array"},
      {"messages", nullptr, "'messages' is missing"},
      {"messages", Json{"hi"}, "'messages[0]' is not an object"},
      {"messages", Json{{{"role", "robot"}, {"content", "x"}}},
       "'messages[0].role' is 'robot', expected system, user or assistant"},
      {"messages", Json{{{"role", "user"}}}, "'messages[0].content' is missing"},
      {"messages", Json{{{"role", "user"}, {"content", {{{"type", "image_url"}}}}}},
       "expected text parts only"},
      {"messages", Json{{{"role", "assistant"}, {"content", "x"}}},
       "the last message has the role 'assistant', expected user"},
      {"retrieval", "on", "'retrieval' is \"on\", expected true, false or an object"},
      {"retrieval", Json{{"top_k", 0}}, "'retrieval.top_k' is 0, expected a whole number from 1"},
      {"retrieval", Json{{"mode", "psychic"}}, "psychic"},
      {"retrieval", Json{{"filter", {{"a", 1}}}}, "an object whose values are strings"},
      {"stream_options", 3, "'stream_options' is 3, expected an object"},
  };
  for (const auto& each : cases) {
    const HttpRig::Reply reply = chat_with(rig, each.field, each.value);
    expect_openai_error(reply, 400, each.message);
    EXPECT_THAT(reply.json()["error"]["param"].get<std::string>(), StartsWith(each.field));
    EXPECT_EQ(reply.json()["error"]["type"], "invalid_request_error");
  }
  EXPECT_EQ(chat_with(rig, "some_new_field", 1).status, 200);
  EXPECT_EQ(chat_with(rig, "temperature", nullptr).status, 200);
}

TEST(HttpErrors, CompletionAndEmbeddingFields) {
  HttpRig rig;
  const auto complete = [&](const Json& body) { return rig.post("/v1/completions", body); };
  expect_openai_error(complete({{"max_tokens", 4}}), 400, "'prompt' is missing");
  expect_openai_error(complete({{"prompt", {"a", "b"}}}), 400,
                      "'prompt' holds 2 prompts, expected one per request");
  expect_openai_error(complete({{"prompt", {5, 999}}}), 400, "token ids from 0 to 259");
  expect_openai_error(complete({{"prompt", "a"}, {"echo", true}}), 400, "'echo' is true");
  expect_openai_error(complete({{"prompt", "a"}, {"best_of", 3}}), 400, "'best_of' is 3");
  const auto embed = [&](const Json& body) { return rig.post("/v1/embeddings", body); };
  expect_openai_error(embed({{"input", ""}}), 400, "texts that are not empty");
  expect_openai_error(embed({{"input", Json::array()}}), 400, "an array of 1 to 2048 texts");
  expect_openai_error(embed({{"input", {1, 4000}}}), 400, "from 0 to 259");
  expect_openai_error(embed({{"input", "a"}, {"dimensions", 2}}), 400,
                      "'dimensions' is 2, expected 3, the size of this embedder's vectors");
  expect_openai_error(embed({{"input", "a"}, {"encoding_format", "hex"}}), 400,
                      "expected float or base64");
  expect_openai_error(embed({{"input", "a"}, {"model", "ada"}}), 404,
                      "The model 'ada' does not exist here; there are: length");
  expect_openai_error(rig.post("/v1/search", Json{{"query", "  "}}), 400, "a text that is not");
  expect_openai_error(rig.post("/v1/search", Json{{"query", "x"}, {"rerank_candidates", 5}}), 400,
                      "no reranker is loaded");
  expect_openai_error(rig.post("/v1/search", Json{{"query", "x"}, {"rerank_candidates", -1}}), 400,
                      "rerank_candidates");
}

TEST(HttpErrors, UnknownModelIsNotFound) {
  HttpRig rig;
  const HttpRig::Reply reply = chat_with(rig, "model", "gpt-9");
  expect_openai_error(reply, 404, "The model 'gpt-9' does not exist here; there are: fake");
  EXPECT_EQ(reply.json()["error"]["code"], "model_not_found");
  EXPECT_EQ(reply.json()["error"]["param"], "model");
}

TEST(HttpErrors, BodiesThatAreNotJsonNameTheByte) {
  HttpRig rig;
  const auto post = [&](const std::string& body) { return rig.post("/v1/chat/completions", body); };
  expect_openai_error(post("{\"messages\": [}"), 400, "byte 1");
  for (const char* empty : {"", " \n"}) {
    expect_openai_error(post(empty), 400, "the request has no body, expected a JSON object");
  }
  expect_openai_error(post("null"), 400, "is a JSON null, expected an object");
  expect_openai_error(post("[1, 2]"), 400, "is a JSON array, expected an object");
  expect_openai_error(post("{\"a\": \"\xFF\xFE\"}"), 400, "UTF-8");
  expect_openai_error(post(std::string(100000, '[')), 400, "deep");
  expect_openai_error(post("{\"a\":" + std::string(100000, '{')), 400, "request body");
}

TEST(HttpErrors, EveryPostWantsAnObjectAndNamesWhatIsMissing) {
  const TemporaryFolder folder;
  HttpRigOptions options;
  options.server.adapter_root = std::filesystem::canonical(folder.path());
  HttpRig rig(options);
  const std::pair<const char*, const char*> posts[] = {
      {"/v1/chat/completions", "'messages' is missing"},
      {"/v1/completions", "'prompt' is missing"},
      {"/v1/embeddings", "'input' is missing"},
      {"/v1/search", "'query' is missing"},
      {"/v1/adapters", "'name' is missing"},
      {"/v1/adapters/combine", "'name' is missing"},
      {"/v1/adapters/fuse", "'weights' is missing"}};
  for (const auto& [path, missing] : posts) {
    expect_openai_error(rig.post(path, std::string("{}")), 400, missing);
    expect_openai_error(rig.post(path, std::string()), 400, "the request has no body");
    expect_openai_error(rig.post(path, std::string("[{}]")), 400, "is a JSON array");
    expect_openai_error(rig.post(path, std::string("question=1")), 400, "request body");
    for (const char* length : {"99999999999999999999", "-5", "5x"}) {
      RawClient client(rig.port());
      client.send(std::string("POST ") + path +
                  " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " +
                  length + "\r\n\r\n");
      EXPECT_THAT(client.read_until("}}"), HasSubstr(length)) << path;
    }
  }
}

TEST(HttpErrors, OverLongPromptNamesBothLengths) {
  HttpRigOptions options;
  options.max_seq_len = 600;
  HttpRig rig(options);
  const HttpRig::Reply chat = rig.post("/v1/chat/completions", chat_body(std::string(700, 'x')));
  expect_openai_error(chat, 400, "This model's maximum context length is 600 tokens");
  EXPECT_EQ(chat.json()["error"]["code"], "context_length_exceeded");
  EXPECT_EQ(chat.json()["error"]["param"], "messages");
  const HttpRig::Reply completion =
      rig.post("/v1/completions", Json{{"prompt", std::string(600, 'x')}});
  expect_openai_error(completion, 400, "the request's 'prompt' is 600 tokens long");
  EXPECT_EQ(completion.json()["error"]["code"], "context_length_exceeded");
}

TEST(HttpErrors, PathsAndMethods) {
  HttpRig rig;
  expect_openai_error(rig.get("/v2/nothing"), 404, "no such path: /v2/nothing");
  const HttpRig::Reply get = rig.get("/v1/chat/completions");
  expect_openai_error(get, 405, "method GET is not allowed for /v1/chat/completions");
  EXPECT_EQ(get.header("Allow"), "POST, OPTIONS");
  const HttpRig::Reply post = rig.post("/healthz", Json::object());
  EXPECT_EQ(post.status, 405);
  EXPECT_EQ(post.header("Allow"), "GET, HEAD, OPTIONS");
  const httplib::Result removed = rig.client().Delete("/v1/models");
  ASSERT_TRUE(removed);
  EXPECT_EQ(removed->status, 405);
  const httplib::Result options = rig.client().Options("/v1/chat/completions");
  ASSERT_TRUE(options);
  EXPECT_EQ(options->status, 204);
  EXPECT_FALSE(options->has_header("Access-Control-Allow-Origin"));
  expect_openai_error(rig.get("/" + std::string(7000, 'a')), 404, "no such path");
}

TEST(HttpErrors, CorsOnlyWhenAskedFor) {
  HttpRigOptions options;
  options.server.cors_origin = "https://app.example";
  HttpRig rig(options);
  const httplib::Result preflight = rig.client().Options("/v1/chat/completions");
  ASSERT_TRUE(preflight);
  EXPECT_EQ(preflight->get_header_value("Access-Control-Allow-Origin"), "https://app.example");
  EXPECT_EQ(preflight->get_header_value("Access-Control-Allow-Headers"),
            "Authorization, Content-Type");
  EXPECT_EQ(rig.get("/healthz").header("Access-Control-Allow-Origin"), "https://app.example");
}

TEST(HttpErrors, ContentTypeAndEncoding) {
  HttpRig rig;
  const std::string body = chat_body("who built the engine?").dump();
  const auto post = [&](const httplib::Headers& headers, const char* type) {
    const httplib::Result result = rig.client().Post("/v1/chat/completions", headers, body, type);
    return result ? HttpRig::Reply{result->status, result->headers, result->body}
                  : HttpRig::Reply();
  };
  EXPECT_EQ(post({}, "application/json; charset=utf-8").status, 200);
  EXPECT_EQ(post({}, "application/x-www-form-urlencoded").status, 200);  // curl -d
  expect_openai_error(post({{"Origin", "https://evil.example"}}, "text/plain"), 415,
                      "Content-Type is 'text/plain', expected application/json");
  expect_openai_error(
      post({{"Origin", "https://evil.example"}}, "application/x-www-form-urlencoded"), 415,
      "expected application/json");
  expect_openai_error(post({{"Content-Encoding", "gzip"}}, "application/json"), 415,
                      "Content-Encoding 'gzip' is not supported");
}

TEST(HttpErrors, KeysAreAskedForButNotByTheProbesAndThePage) {
  HttpRigOptions options;
  options.server.api_keys = {"first-key", "second-key"};
  HttpRig rig(options);
  const HttpRig::Reply missing = rig.get("/v1/models");
  expect_openai_error(missing, 401, "send 'Authorization: Bearer KEY'");
  EXPECT_EQ(missing.header("WWW-Authenticate"), "Bearer");
  EXPECT_EQ(missing.json()["error"]["code"], "invalid_api_key");
  for (const char* wrong : {"Bearer first-kez", "Bearer first-ke", "Bearer first-keyy", "Bearer ",
                            "Basic first-key", "first-key"}) {
    EXPECT_EQ(rig.get("/v1/models", {{"Authorization", wrong}}).status, 401) << wrong;
  }
  for (const char* right : {"Bearer first-key", "bearer second-key"}) {
    EXPECT_EQ(rig.get("/v1/models", {{"Authorization", right}}).status, 200) << right;
  }
  for (const char* open : {"/healthz", "/readyz", "/", "/page.js"}) {
    EXPECT_EQ(rig.get(open).status, 200) << open;
  }
  for (const char* closed : {"/metrics", "/documents?uri=x"}) {
    EXPECT_EQ(rig.get(closed).status, 401) << closed;
  }
  EXPECT_EQ(rig.post("/v1/chat/completions", Json("not an object")).status, 401);
}

TEST(HttpErrors, KeyFileSkipsCommentsAndRefusesRubbish) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "keys";
  const auto write = [&](const std::string& text) { std::ofstream(path) << text; };
  write("# team\n  alpha  \n\nbeta\r\n#gamma\n");
  EXPECT_EQ(load_api_keys(path), (std::vector<std::string>{"alpha", "beta"}));
  const auto message = [&] {
    try {
      load_api_keys(path);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  write("# nothing\n");
  EXPECT_THAT(message(), HasSubstr("holds no API key"));
  write("one\ntwo words\n");
  EXPECT_THAT(message(), HasSubstr(":2: an API key must be printable ASCII without spaces"));
  std::filesystem::remove(path);
  EXPECT_THAT(message(), HasSubstr("no such API key file"));
}

TEST(HttpErrors, LargeBodyIsRefusedUnread) {
  HttpRigOptions options;
  options.server.max_payload_bytes = 100000;
  HttpRig rig(options);
  RawClient announced(rig.port());
  announced.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 104857600\r\n\r\n");
  EXPECT_THAT(announced.read_until("}}"),
              HasSubstr("the body has 104857600 bytes, at most 100000"));
  // A client that sends everything before it reads still gets the answer.
  const httplib::Result all =
      rig.client().Post("/v1/completions", std::string(4000000, ' '), "application/json");
  ASSERT_TRUE(all);
  EXPECT_EQ(all->status, 413);
  RawClient chunked(rig.port());
  chunked.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n");
  const std::string chunk = "2710\r\n" + std::string(10000, ' ') + "\r\n";
  for (int i = 0; i < 40 && chunked.send(chunk); ++i) {
  }
  EXPECT_THAT(chunked.read_until("}}"), HasSubstr("413"));
  EXPECT_EQ(rig.get("/healthz").status, 200);
}

TEST(HttpErrors, RequestsThatAreNotHttp) {
  HttpRigOptions options;
  options.server.header_timeout_seconds = 0.2;
  options.server.body_timeout_seconds = 0.2;
  HttpRig rig(options);
  RawClient nonsense(rig.port());
  nonsense.send("hello there\r\n\r\n");
  EXPECT_THAT(nonsense.read_until("}}"), HasSubstr("the request is not valid HTTP"));
  RawClient endless(rig.port());
  endless.send("GET / HTTP/1.1\r\n");
  for (int i = 0; i < 20 && endless.send("X-A: " + std::string(8000, 'a') + "\r\n"); ++i) {
  }
  EXPECT_THAT(endless.read_all(), ::testing::Not(HasSubstr(" 200 ")));
  RawClient slow(rig.port());
  slow.send("GET /healthz HTTP/1.1\r\nHost:");
  EXPECT_THAT(slow.read_all(), ::testing::Not(HasSubstr(" 200 ")));
  RawClient half_body(rig.port());
  half_body.send(
      "POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 50\r\n\r\n{\"query\"");
  EXPECT_THAT(half_body.read_until("}}"), HasSubstr("the request did not arrive in time"));
  RawClient no_length(rig.port());
  no_length.send("POST /v1/search HTTP/1.1\r\nContent-Type: application/json\r\n\r\n");
  const std::string reply = no_length.read_until("}}");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(reply, HasSubstr("the request has no body, expected a JSON object"));
  EXPECT_EQ(rig.get("/healthz").status, 200);
}

TEST(HttpErrors, PortInUseIsNamed) {
  HttpRig rig;
  ServerOptions options;
  options.port = rig.port();
  const Pipeline pipeline(nullptr, nullptr, std::make_shared<Engine>(nullptr, EngineOptions()));
  Server second(pipeline, options);
  try {
    second.bind();
    FAIL() << "bound a taken port";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_THAT(error.what(), HasSubstr("port " + std::to_string(rig.port()) +
                                        " on 127.0.0.1 is in use by another program"));
  }
  options.host = "203.0.113.7";
  Server foreign(pipeline, options);
  EXPECT_THROW(foreign.bind(), Error);
}

TEST(HttpErrors, ModelFailureIsAServerError) {
  HttpRig rig;
  rig.model().poison = '~';
  const HttpRig::Reply reply = rig.post("/v1/completions", Json{{"prompt", "a~"}});
  expect_openai_error(reply, 500, "the model failed");
  EXPECT_EQ(reply.json()["error"]["type"], "server_error");
  EXPECT_EQ(rig.post("/v1/completions", Json{{"prompt", "ab"}}).status, 200);
}

}  // namespace
}  // namespace quarry::test
