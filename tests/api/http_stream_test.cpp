#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "tests/api/http_rig.h"

namespace quarry::test {
namespace {

using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

// Never ends by itself, and takes its time.
int32_t endless(const std::vector<int32_t>&, const LoraAdapter*) {
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return 'z';
}

HttpRigOptions endless_options() {
  HttpRigOptions options;
  options.next = endless;
  options.max_seq_len = 100000;
  return options;
}

Json streamed_completion(const std::string& prompt, int64_t max_tokens) {
  return {{"prompt", prompt}, {"max_tokens", max_tokens}, {"stream", true}};
}

std::string streamed_text(const std::string& body) {
  std::string text;
  for (const Json& event : parse_events(body)) {
    if (event.is_object() && event.contains("choices") && !event["choices"].empty()) {
      text += event["choices"][0]["text"].get<std::string>();
    }
  }
  return text;
}

TEST(HttpStream, ChatStreamHasRoleDeltasAnnotationsFinishUsageAndDone) {
  HttpRigOptions options;
  options.next = cited_answer;
  HttpRig rig(options);
  Json body = chat_body("who built the engine?");
  const Json whole = rig.post("/v1/chat/completions", body).json();
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  const HttpRig::Reply reply = rig.post("/v1/chat/completions", body);
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.header("Content-Type"), "text/event-stream");
  EXPECT_EQ(reply.header("Cache-Control"), "no-cache");
  const std::vector<Json> events = parse_events(reply.body);
  ASSERT_GE(events.size(), 6u);
  const size_t n = events.size();
  const auto delta = [&](size_t i) { return events[i]["choices"][0]["delta"]; };
  EXPECT_EQ(delta(0), (Json{{"role", "assistant"}, {"content", ""}}));
  EXPECT_EQ(events[0]["retrieval"]["citations"].size(), 2u);
  std::string text;
  for (size_t i = 1; i < n - 4; ++i) text += delta(i)["content"].get<std::string>();
  EXPECT_EQ(text, whole["choices"][0]["message"]["content"]);
  EXPECT_EQ(delta(n - 4)["annotations"], whole["choices"][0]["message"]["annotations"]);
  EXPECT_EQ(delta(n - 3), Json::object());
  EXPECT_EQ(events[n - 3]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events[n - 2]["choices"], Json::array());
  Json usage = events[n - 2]["usage"];
  // The same prompt came before: all but its last token was known.
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"].get<int>() - 1);
  usage["prompt_tokens_details"]["cached_tokens"] = 0;
  EXPECT_EQ(usage, whole["usage"]);
  EXPECT_EQ(events[n - 1], "[DONE]");
  for (size_t i = 0; i + 1 < n; ++i) {
    EXPECT_EQ(events[i]["object"], "chat.completion.chunk");
    EXPECT_EQ(events[i]["id"], events[0]["id"]);
    EXPECT_EQ(events[i]["created"], events[0]["created"]);
    EXPECT_TRUE(events[i].contains("usage"));
    if (i + 2 < n) {
      EXPECT_EQ(events[i]["choices"][0]["finish_reason"].is_null(), i != n - 3);
    }
  }
}

TEST(HttpStream, StreamedLogprobsAreThoseOfTheWhole) {
  HttpRigOptions options;
  options.next = cited_answer;
  HttpRig rig(options);
  Json body = chat_body("who built the engine?");
  body["logprobs"] = true;
  body["top_logprobs"] = 1;
  body["stop"] = "coal burns";  // held back, so that tokens and texts come apart
  const Json whole = rig.post("/v1/chat/completions", body).json();
  body["stream"] = true;
  Json content = Json::array();
  for (const Json& event : parse_events(rig.post("/v1/chat/completions", body).body)) {
    if (!event.is_object() || event["choices"][0]["logprobs"].is_null()) continue;
    for (const Json& token : event["choices"][0]["logprobs"]["content"]) content.push_back(token);
  }
  EXPECT_GT(content.size(), 10u);
  EXPECT_EQ(content, whole["choices"][0]["logprobs"]["content"]);
}

TEST(HttpStream, ErrorsBeforeTheFirstEventKeepTheirStatus) {
  HttpRig rig;
  Json body = chat_body("x");
  body["stream"] = true;
  body["model"] = "gpt-9";
  EXPECT_EQ(rig.post("/v1/chat/completions", body).status, 404);
}

TEST(HttpStream, FailureInTheMiddleIsAnErrorEvent) {
  HttpRigOptions options;
  // Two letters, then a token that the model chokes on.
  options.next = [](const std::vector<int32_t>& history, const LoraAdapter*) -> int32_t {
    return history.back() == 'a' ? 'b' : history.back() == 'b' ? '~' : 'a';
  };
  HttpRig rig(options);
  rig.model().poison = '~';
  const HttpRig::Reply reply = rig.post("/v1/completions", streamed_completion("go", 50));
  EXPECT_EQ(reply.status, 200);
  const std::vector<Json> events = parse_events(reply.body);
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(streamed_text(reply.body).substr(0, 2), "ab");
  EXPECT_THAT(events.back()["error"]["message"].get<std::string>(), HasSubstr("the model failed"));
  EXPECT_EQ(events.back()["error"]["type"], "server_error");
}

TEST(HttpStream, ThirtyTwoStreamsAtOnceAreEachRightAndHealthAnswersQuickly) {
  constexpr int kStreams = 32;
  HttpRig rig;
  rig.model().close_gate();
  std::vector<std::thread> threads;
  std::vector<std::string> bodies(kStreams);
  const auto prompt = [](int i) { return "question number " + std::to_string(i * 7919); };
  for (int i = 0; i < kStreams; ++i) {
    threads.emplace_back([&, i] {
      bodies[static_cast<size_t>(i)] =
          rig.post("/v1/completions", streamed_completion(prompt(i), 64)).body;
    });
  }
  EXPECT_TRUE(wait_for([&] {
    const EngineStats stats = rig.engine().stats();
    return stats.running + stats.waiting == kStreams;
  }));
  std::vector<double> milliseconds;
  for (int i = 0; i < 20; ++i) {
    const Clock::time_point start = Clock::now();
    EXPECT_EQ(rig.get("/healthz").status, 200);
    milliseconds.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  EXPECT_LT(milliseconds[milliseconds.size() / 2], 50.0);
  rig.model().open_gate();
  for (std::thread& thread : threads) thread.join();
  const fake::ByteTokenizer tokenizer;
  for (int i = 0; i < kStreams; ++i) {
    const auto ids = tokenizer.encode(prompt(i), Tokenizer::SpecialTokens::kAdd);
    EXPECT_EQ(streamed_text(bodies[static_cast<size_t>(i)]),
              fake::expected_text(fake::hashed_letters, ids, 64))
        << i;
  }
}

TEST(HttpStream, ClientThatLeavesAStreamFreesItsSlot) {
  HttpRig rig(endless_options());
  RawClient client(rig.port());
  client.send_post("/v1/completions", streamed_completion("go", 50000).dump());
  EXPECT_THAT(client.read_until("data: "), HasSubstr("text/event-stream"));
  EXPECT_EQ(rig.engine().stats().running, 1);
  client.close();
  EXPECT_TRUE(wait_for([&] { return rig.engine().stats().running == 0; }, 1.0));
  EXPECT_TRUE(wait_for([&] {
    return rig.get("/metrics").body.find("route=\"/v1/completions\",code=\"499\"} 1") !=
           std::string::npos;
  }));
  EXPECT_EQ(rig.engine().stats().cancelled_total, 1);
}

TEST(HttpStream, ClientThatLeavesAPlainRequestFreesItsSlot) {
  HttpRig rig(endless_options());
  RawClient client(rig.port());
  client.send_post("/v1/completions", R"({"prompt": "go", "max_tokens": 50000})");
  EXPECT_TRUE(wait_for([&] { return rig.engine().stats().running == 1; }));
  client.close();
  EXPECT_TRUE(wait_for([&] { return rig.engine().stats().running == 0; }, 1.0));
  EXPECT_EQ(rig.engine().stats().cancelled_total, 1);
}

TEST(HttpStream, ClientThatReadsNothingIsDropped) {
  HttpRigOptions options = endless_options();
  options.next = [](const std::vector<int32_t>&, const LoraAdapter*) -> int32_t { return 'z'; };
  options.max_seq_len = 1 << 20;
  options.server.write_timeout_seconds = 0.3;
  HttpRig rig(options);
  RawClient client(rig.port());
  client.send_post("/v1/completions", streamed_completion("go", 1 << 20).dump());
  EXPECT_TRUE(wait_for([&] { return rig.engine().stats().running == 1; }));
  EXPECT_TRUE(wait_for([&] { return rig.engine().stats().cancelled_total == 1; }, 60.0));
}

TEST(HttpStream, FullQueueIsTooManyRequests) {
  HttpRigOptions options = endless_options();
  options.engine.max_batch_sequences = 1;
  options.engine.max_queue = 1;
  HttpRig rig(options);
  RawClient running(rig.port());
  running.send_post("/v1/completions", streamed_completion("go", 50000).dump());
  EXPECT_TRUE(wait_for([&] { return rig.engine().stats().running == 1; }));
  RawClient waiting(rig.port());
  waiting.send_post("/v1/completions", streamed_completion("go", 50000).dump());
  EXPECT_TRUE(wait_for([&] { return rig.engine().stats().waiting == 1; }));
  const HttpRig::Reply refused = rig.post("/v1/completions", streamed_completion("go", 5));
  EXPECT_EQ(refused.status, 429) << refused.body;
  EXPECT_EQ(refused.header("Retry-After"), "1");
  EXPECT_EQ(refused.json()["error"]["type"], "rate_limit_error");
}

TEST(HttpStream, ConnectionsBeyondTheLimitAreShedWithAnAnswer) {
  HttpRigOptions options = endless_options();
  options.server.max_connections = 3;
  HttpRig rig(options);
  std::vector<std::unique_ptr<RawClient>> streams;
  for (int i = 0; i < 3; ++i) {
    streams.push_back(std::make_unique<RawClient>(rig.port()));
    streams.back()->send_post("/v1/completions", streamed_completion("go", 50000).dump());
    streams.back()->read_until("data: ");
  }
  RawClient extra(rig.port());
  const std::string answer = extra.read_all();
  EXPECT_THAT(answer, HasSubstr("503 Service Unavailable"));
  EXPECT_THAT(answer, HasSubstr("all 3 connections are in use"));
  streams.clear();
  EXPECT_TRUE(wait_for([&] { return rig.get("/healthz").status == 200; }, 2.0));
}

TEST(HttpStream, OneConnectionServesManyRequests) {
  HttpRig rig;
  httplib::Client client = rig.client();
  client.set_keep_alive(true);
  for (int i = 0; i < 20; ++i) {
    const httplib::Result result = client.Get("/healthz");
    ASSERT_TRUE(result);
    EXPECT_EQ(result->status, 200);
  }
  RawClient pipelined(rig.port());
  const std::string get = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
  pipelined.send(get + get);
  EXPECT_THAT(pipelined.read_until("{\"status\":\"ok\"}"), HasSubstr("200 OK"));
  EXPECT_THAT(pipelined.read_until("{\"status\":\"ok\"}"), HasSubstr("200 OK"));
}

TEST(HttpStream, SixteenClientsOfEveryKind) {
  HttpRig rig;
  std::atomic<int> failures{0};
  std::vector<std::thread> clients;
  for (int c = 0; c < 16; ++c) {
    clients.emplace_back([&, c] {
      for (int round = 0; round < 6; ++round) {
        const std::string text = std::to_string(c) + " and " + std::to_string(round);
        Json chat = chat_body("who built engine " + text + "?");
        chat["stream"] = round % 2 == 0;
        bool good = rig.post("/v1/chat/completions", chat).status == 200;
        good &= rig.post("/v1/completions", Json{{"prompt", text}}).status == 200;
        good &= rig.post("/v1/embeddings", Json{{"input", text}}).status == 200;
        good &= rig.post("/v1/search", Json{{"query", text}}).status == 200;
        good &= rig.get("/metrics").status == 200;
        good &= rig.get("/v1/models/none").status == 404;
        RawClient leaving(rig.port());
        leaving.send_post("/v1/completions", streamed_completion(text, 64).dump());
        leaving.close();
        if (!good) ++failures;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(failures, 0);
  EXPECT_TRUE(wait_for([&] {
    const EngineStats stats = rig.engine().stats();
    return stats.running + stats.waiting == 0;
  }));
}

TEST(HttpDrain, RunningStreamEndsWellAndNewWorkIsRefused) {
  HttpRig rig;
  rig.model().close_gate();
  RawClient stream(rig.port());
  stream.send_post("/v1/completions", streamed_completion("go on", 64).dump());
  rig.model().wait_until_entered();
  EXPECT_EQ(rig.get("/readyz").status, 200);
  rig.stop();
  HttpRig::Reply ready;
  EXPECT_TRUE(wait_for([&] { return (ready = rig.get("/readyz")).status == 503; }));
  EXPECT_EQ(ready.json()["error"]["code"], "shutting_down");
  EXPECT_EQ(ready.header("Retry-After"), "5");
  EXPECT_EQ(rig.get("/healthz").status, 200);
  EXPECT_EQ(rig.post("/v1/completions", Json{{"prompt", "x"}}).status, 503);
  rig.model().open_gate();
  rig.join();
  const std::string body = stream.read_all();
  const auto ids = fake::ByteTokenizer().encode("go on", Tokenizer::SpecialTokens::kAdd);
  EXPECT_EQ(streamed_text(body), fake::expected_text(fake::hashed_letters, ids, 64));
  EXPECT_THAT(body, HasSubstr("data: [DONE]"));
  EXPECT_EQ(rig.get("/healthz").status, 0);  // the port is closed
}

TEST(HttpDrain, WhatDoesNotEndInTimeGetsAnErrorEvent) {
  HttpRigOptions options = endless_options();
  options.server.drain_timeout_seconds = 0.1;
  HttpRig rig(options);
  RawClient stream(rig.port());
  stream.send_post("/v1/completions", streamed_completion("go", 50000).dump());
  stream.read_until("data: ");
  RawClient plain(rig.port());
  plain.send_post("/v1/completions", R"({"prompt": "go", "max_tokens": 50000})");
  EXPECT_TRUE(wait_for([&] { return rig.engine().stats().running == 2; }));
  const Clock::time_point start = Clock::now();
  rig.stop();
  rig.join();
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), 3.0);
  const std::vector<Json> events = parse_events(stream.read_all());
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back()["error"]["code"], "shutting_down");
  EXPECT_THAT(plain.read_all(), HasSubstr("503"));
  EXPECT_TRUE(wait_for([&] { return rig.engine().stats().running == 0; }));
}

TEST(HttpDrain, IdleConnectionsDoNotHoldIt) {
  HttpRig rig;
  RawClient idle(rig.port());
  idle.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
  idle.read_until("}");
  const Clock::time_point start = Clock::now();
  rig.stop();
  rig.stop();
  rig.join();
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), 1.0);
}

}  // namespace
}  // namespace quarry::test
