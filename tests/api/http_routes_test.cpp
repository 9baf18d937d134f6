#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "tests/api/http_rig.h"

namespace quarry::test {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

std::string decode_base64(const std::string& text) {
  static const std::string kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t group = 0;
  int bits = 0;
  for (const char c : text) {
    if (c == '=') break;
    group = group << 6 | static_cast<uint32_t>(kAlphabet.find(c));
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes += static_cast<char>(group >> bits & 0xFF);
    }
  }
  return bytes;
}

TEST(HttpRoutes, ModelsListBaseAndEmbedder) {
  HttpRig rig;
  const Json list = rig.get("/v1/models").json();
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 2u);
  EXPECT_EQ(list["data"][0]["id"], "fake");
  EXPECT_EQ(list["data"][0]["object"], "model");
  EXPECT_EQ(list["data"][0]["owned_by"], "quarry");
  EXPECT_EQ(list["data"][0]["kind"], "base");
  EXPECT_EQ(list["data"][1]["id"], "length");
  EXPECT_EQ(list["data"][1]["kind"], "embedding");
  EXPECT_EQ(rig.get("/v1/models/fake").json()["id"], "fake");
  const HttpRig::Reply unknown = rig.get("/v1/models/gpt-9");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(unknown.json()["error"]["code"], "model_not_found");
  EXPECT_EQ(unknown.json()["error"]["message"],
            "The model 'gpt-9' does not exist here; there are: fake, length");
}

TEST(HttpRoutes, ServedModelNameReplacesTheGenerators) {
  HttpRigOptions options;
  options.server.model_name = "house-model";
  HttpRig rig(options);
  EXPECT_EQ(rig.get("/v1/models").json()["data"][0]["id"], "house-model");
  Json body = chat_body("who?");
  body["model"] = "house-model";
  EXPECT_EQ(rig.post("/v1/chat/completions", body).json()["model"], "house-model");
}

TEST(HttpRoutes, ChatAnswersWithAnnotationsThatCarryExactSpans) {
  HttpRigOptions options;
  options.next = cited_answer;
  HttpRig rig(options);
  const HttpRig::Reply reply = rig.post("/v1/chat/completions", chat_body("who built the engine?"));
  ASSERT_EQ(reply.status, 200) << reply.body;
  const Json body = reply.json();
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_THAT(body["id"].get<std::string>(), MatchesRegex("chatcmpl-[0-9a-f]+"));
  const Json& choice = body["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["message"]["role"], "assistant");
  const std::string answer = choice["message"]["content"];
  EXPECT_EQ(answer, kCitedAnswer);
  const Json& annotations = choice["message"]["annotations"];
  ASSERT_EQ(annotations.size(), 2u);
  EXPECT_EQ(annotations[0]["type"], "url_citation");
  EXPECT_EQ(annotations[0]["url_citation"]["title"], "Engines");
  EXPECT_EQ(annotations[0]["url_citation"]["start_index"], answer.find("[1]"));
  EXPECT_EQ(annotations[0]["url_citation"]["end_index"], answer.find("[1]") + 3);
  EXPECT_EQ(annotations[0]["url_citation"]["url"],
            "/source?uri=/docs/steam%20engines.txt&start=12&end=47");
  const Json& source = annotations[0]["source"];
  EXPECT_EQ(source["number"], 1);
  EXPECT_EQ(source["uri"], "/docs/steam engines.txt");
  EXPECT_EQ(source["heading"], "History > Watt");
  EXPECT_EQ(source["quote"], "The steam engine was built by Watt.");
  EXPECT_EQ(source["start"], 12);
  EXPECT_EQ(source["end"], 47);
  EXPECT_EQ(body["retrieval"]["answered"], true);
  EXPECT_EQ(
      body["usage"]["total_tokens"].get<int>(),
      body["usage"]["prompt_tokens"].get<int>() + body["usage"]["completion_tokens"].get<int>());
  EXPECT_EQ(body["usage"]["completion_tokens"], answer.size());
}

TEST(HttpRoutes, AnnotationOfAMarkCoversTheMarkInCodePoints) {
  HttpRigOptions options;
  // "hello" is one token; the euro sign comes in two pieces, then "[2]".
  options.next = [](const std::vector<int32_t>& history, const LoraAdapter*) -> int32_t {
    switch (history.back()) {
      case fake::kHello:
        return fake::kHalfEuro;
      case fake::kHalfEuro:
        return 0xAC;
      case 0xAC:
        return '[';
      case '[':
        return '2';
      case '2':
        return ']';
      case ']':
        return fake::kEnd;
      default:
        return fake::kHello;
    }
  };
  HttpRig rig(options);
  const Json message =
      rig.post("/v1/chat/completions", chat_body("engine?")).json()["choices"][0]["message"];
  EXPECT_EQ(message["content"], "hello\xE2\x82\xAC[2]");
  ASSERT_EQ(message["annotations"].size(), 2u);
  EXPECT_EQ(message["annotations"][0]["url_citation"]["start_index"], 0);  // [1] is not marked
  EXPECT_EQ(message["annotations"][0]["url_citation"]["end_index"], 9);
  EXPECT_EQ(message["annotations"][1]["source"]["number"], 2);
  EXPECT_EQ(message["annotations"][1]["url_citation"]["start_index"], 6);
  EXPECT_EQ(message["annotations"][1]["url_citation"]["end_index"], 9);
}

TEST(HttpRoutes, ChatSaysWhenTheDocumentsHoldNothing) {
  HttpRigOptions options;
  options.best_cosine = 0.0;
  HttpRig rig(options);
  const Json body = rig.post("/v1/chat/completions", chat_body("zebra regatta trophies")).json();
  EXPECT_EQ(body["choices"][0]["message"]["content"], kNotInDocuments);
  EXPECT_EQ(body["choices"][0]["message"]["annotations"], Json::array());
  EXPECT_EQ(body["retrieval"]["answered"], false);
  EXPECT_EQ(rig.engine().stats().requests_total, 0);
}

TEST(HttpRoutes, RetrievalCanBeSwitchedOff) {
  HttpRigOptions options;
  options.next = cited_answer;
  HttpRig rig(options);
  for (const Json& off : {Json(false), Json{{"enabled", false}}}) {
    Json body = chat_body("who built the engine?");
    body["retrieval"] = off;
    const Json answer = rig.post("/v1/chat/completions", body).json();
    EXPECT_EQ(answer["retrieval"], nullptr);
    EXPECT_EQ(answer["choices"][0]["message"]["annotations"], Json::array());
    EXPECT_EQ(answer["choices"][0]["message"]["content"], kCitedAnswer);
  }
}

TEST(HttpRoutes, RetrievalOptionsReachTheSearch) {
  HttpRig rig;
  Json body = chat_body("who built the engine?");
  body["retrieval"] = {{"top_k", 1}, {"mode", "dense"}};
  const Json one = rig.post("/v1/chat/completions", body).json();
  EXPECT_EQ(one["retrieval"]["citations"].size(), 1u);
  body["retrieval"] = {{"filter", {{"author", "Bob"}}}};
  EXPECT_EQ(rig.post("/v1/chat/completions", body).json()["retrieval"]["answered"], false);
  body["retrieval"] = {{"min_relevance", 2.0}};
  EXPECT_EQ(rig.post("/v1/chat/completions", body).json()["retrieval"]["answered"], false);
}

TEST(HttpRoutes, LatentPassagesAreWeighedInTheRetrievalObject) {
  HttpRigOptions options;
  options.next = cited_answer;
  HttpRig rig(options);
  Json body = chat_body("who built the engine?");
  for (const std::string decode : {"rag-sequence", "rag-token"}) {
    body["retrieval"] = {{"decode", decode}, {"prior_temperature", 0.1}};
    const HttpRig::Reply reply = rig.post("/v1/chat/completions", body);
    ASSERT_EQ(reply.status, 200) << reply.body;
    const Json found = reply.json();
    EXPECT_EQ(found["choices"][0]["message"]["content"], kCitedAnswer);
    EXPECT_EQ(found["choices"][0]["finish_reason"], "stop");
    EXPECT_EQ(found["retrieval"]["citations"].size(), 2u);
    const Json& passages = found["retrieval"]["passages"];
    ASSERT_EQ(passages.size(), 2u);
    EXPECT_EQ(passages[1]["number"], 2);
    // Cosines of 0.9 and 0.8.
    EXPECT_NEAR(passages[0]["prior"].get<double>(), 1.0 / (1.0 + std::exp(-1.0)), 1e-6);
    EXPECT_NEAR(passages[0]["posterior"].get<double>() + passages[1]["posterior"].get<double>(),
                1.0, 1e-6);
    EXPECT_EQ(passages[0].contains("answer"), decode == "rag-sequence");
  }
  body["stream"] = true;
  const std::vector<Json> events = parse_events(rig.post("/v1/chat/completions", body).body);
  bool told = false;
  std::string text;
  for (const Json& event : events) {
    if (!event.is_object()) continue;
    told = told || (event.contains("retrieval") && event["retrieval"].contains("passages"));
    text += event["choices"][0]["delta"].value("content", "");
  }
  EXPECT_TRUE(told);
  EXPECT_EQ(text, kCitedAnswer);
}

TEST(HttpRoutes, LatentDecodingIsRefusedWithTheReason) {
  HttpRig rig;
  Json body = chat_body("who built the engine?");
  body["retrieval"] = {{"decode", "fusion"}};
  HttpRig::Reply reply = rig.post("/v1/chat/completions", body);
  EXPECT_EQ(reply.status, 400);
  EXPECT_THAT(reply.body, HasSubstr("use concat, rag-sequence or rag-token"));
  body["retrieval"] = {{"decode", "rag-token"}};
  body["temperature"] = 1.0;
  reply = rig.post("/v1/chat/completions", body);
  EXPECT_EQ(reply.status, 400);
  EXPECT_THAT(reply.body, HasSubstr("is greedy: temperature is 1"));
}

TEST(HttpRoutes, ServerWithoutIndexChatsWithoutRetrieval) {
  HttpRigOptions options;
  options.with_retriever = false;
  HttpRig rig(options);
  EXPECT_EQ(rig.post("/v1/chat/completions", chat_body("hi")).json()["retrieval"], nullptr);
  const HttpRig::Reply search = rig.post("/v1/search", Json{{"query", "x"}});
  EXPECT_EQ(search.status, 404);
  EXPECT_THAT(search.body, HasSubstr("this server was started without an index"));
  Json body = chat_body("hi");
  body["retrieval"] = true;
  EXPECT_EQ(rig.post("/v1/chat/completions", body).status, 400);
}

TEST(HttpRoutes, MessageContentMayBeTextParts) {
  HttpRig rig;
  Json plain = chat_body("one two");
  plain["retrieval"] = false;
  Json parts = plain;
  parts["messages"][0]["content"] = {{{"type", "text"}, {"text", "one "}},
                                     {{"type", "text"}, {"text", "two"}}};
  const auto content = [&](const Json& body) {
    return rig.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"];
  };
  EXPECT_EQ(content(plain), content(parts));
}

TEST(HttpRoutes, CompletionContinuesThePromptAndStops) {
  HttpRig rig;
  const std::vector<int32_t> ids = {'O', 'n', 'c', 'e'};
  const std::string expected = fake::expected_text(fake::hashed_letters, ids, 8);
  ASSERT_GE(expected.size(), 4u);
  const Json whole =
      rig.post("/v1/completions", Json{{"prompt", "Once"}, {"max_tokens", 8}}).json();
  EXPECT_EQ(whole["object"], "text_completion");
  EXPECT_EQ(whole["choices"][0]["text"], expected);
  for (const Json& prompt : {Json{"Once"}, Json(ids), Json::array({ids})}) {
    const HttpRig::Reply reply =
        rig.post("/v1/completions", Json{{"prompt", prompt}, {"max_tokens", 8}});
    ASSERT_EQ(reply.status, 200) << reply.body;
    EXPECT_EQ(reply.json()["choices"][0]["text"], expected);
  }
  const Json cut = rig.post("/v1/completions", Json{{"prompt", "Once"}, {"max_tokens", 2}}).json();
  EXPECT_EQ(cut["choices"][0]["text"], expected.substr(0, 2));
  EXPECT_EQ(cut["choices"][0]["finish_reason"], "length");
  const Json stopped =
      rig.post("/v1/completions",
               Json{{"prompt", "Once"}, {"max_tokens", 8}, {"stop", expected.substr(2, 2)}})
          .json();
  EXPECT_EQ(stopped["choices"][0]["text"],
            expected.substr(0, expected.find(expected.substr(2, 2))));
  EXPECT_EQ(stopped["choices"][0]["finish_reason"], "stop");
}

TEST(HttpRoutes, EmbeddingsAsFloatsAndBase64AreTheSameUnitVectors) {
  HttpRig rig;
  const Json floats =
      rig.post("/v1/embeddings", Json{{"input", {"ab", "longer text"}}, {"model", "length"}})
          .json();
  ASSERT_EQ(floats["data"].size(), 2u);
  EXPECT_EQ(floats["data"][1]["index"], 1);
  EXPECT_EQ(floats["model"], "length");
  EXPECT_EQ(floats["usage"]["prompt_tokens"], 13);
  const auto vector = floats["data"][0]["embedding"].get<std::vector<float>>();
  ASSERT_EQ(vector.size(), 3u);
  EXPECT_NEAR(vector[0] / vector[2], 2.0f, 1e-6f);
  const Json packed =
      rig.post("/v1/embeddings", Json{{"input", "ab"}, {"encoding_format", "base64"}}).json();
  const std::string bytes = decode_base64(packed["data"][0]["embedding"]);
  ASSERT_EQ(bytes.size(), 12u);
  float values[3];
  std::memcpy(values, bytes.data(), bytes.size());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(values[i], vector[static_cast<size_t>(i)]);
}

TEST(HttpRoutes, EmbeddingsTakeTokenIdsOfTheEmbedder) {
  HttpRig rig;
  const Json text = rig.post("/v1/embeddings", Json{{"input", "ab"}}).json();
  for (const Json& input : {Json{'a' + 0, 'b' + 0}, Json::array({Json{'a' + 0, 'b' + 0}})}) {
    const Json ids = rig.post("/v1/embeddings", Json{{"input", input}}).json();
    EXPECT_EQ(ids["data"], text["data"]);
  }
}

TEST(HttpRoutes, SearchGivesHitsWithSpansAndScores) {
  HttpRig rig;
  const HttpRig::Reply reply =
      rig.post("/v1/search", Json{{"query", "steam"}, {"top_k", 1}, {"mode", "lexical"}});
  ASSERT_EQ(reply.status, 200) << reply.body;
  const Json body = reply.json();
  ASSERT_EQ(body["data"].size(), 1u);
  EXPECT_EQ(body["mode"], "lexical");
  EXPECT_EQ(body["data"][0]["passage_id"], 1);
  EXPECT_EQ(body["data"][0]["uri"], "/docs/steam engines.txt");
  EXPECT_EQ(body["data"][0]["score"], 1.0);
  EXPECT_EQ(body["data"][0]["dense_score"], 0.9);
  EXPECT_EQ(body["data"][0]["lexical_score"], nullptr);
  EXPECT_EQ(body["data"][0]["metadata"]["author"], "Ada");
}

TEST(HttpRoutes, SearchIsRerankedByDefaultWhereTheServerHasAReranker) {
  const std::string folder = std::string(QUARRY_SOURCE_DIR) + "/tests/golden/encoders/bert_rerank";
  HttpRigOptions options;
  options.reranker = std::make_shared<const Reranker>(
      load_sequence_classifier(folder, kernels::Precision::kExact));
  options.server.ask.search.rerank_candidates = 20;
  HttpRig rig(options);
  const Json reranked = rig.post("/v1/search", Json{{"query", "steam"}}).json()["data"];
  ASSERT_EQ(reranked.size(), 2u);
  EXPECT_GE(reranked[0]["rerank_score"], reranked[1]["rerank_score"]);
  EXPECT_EQ(reranked[0]["score"], reranked[0]["rerank_score"]);
  const Json plain =
      rig.post("/v1/search", Json{{"query", "steam"}, {"rerank_candidates", 0}}).json()["data"];
  EXPECT_EQ(plain[0]["rerank_score"], nullptr);
}

TEST(HttpRoutes, DocumentComesInThreePiecesAroundTheSpan) {
  HttpRig rig;
  const std::string uri = "/documents?uri=/docs/steam%20engines.txt";
  const Json whole = rig.get(uri + "&start=12&end=47").json();
  EXPECT_EQ(whole["before"], "Caf\xC3\xA9 talk. ");
  EXPECT_EQ(whole["span"], "The steam engine was built by Watt.");
  EXPECT_EQ(whole["after"], " End.");
  EXPECT_EQ(whole["cut_before"], false);
  // 8 bytes before the span lie inside the two bytes of the accented letter: rounded inwards.
  const Json cut = rig.get(uri + "&start=12&end=47&context=8").json();
  EXPECT_EQ(cut["before"], " talk. ");
  EXPECT_EQ(cut["cut_before"], true);
  const HttpRig::Reply text = rig.get(uri + "&format=text");
  EXPECT_EQ(text.header("Content-Type"), "text/plain; charset=utf-8");
  EXPECT_THAT(text.body, HasSubstr("built by Watt. End."));
}

TEST(HttpRoutes, DocumentsAreOnlyThoseOfTheIndex) {
  HttpRig rig;
  for (const char* uri : {"/etc/passwd", "file:///etc/passwd", "../../etc/passwd", ""}) {
    const HttpRig::Reply reply = rig.get(std::string("/documents?uri=") + uri);
    EXPECT_EQ(reply.status, 404) << uri;
    EXPECT_THAT(reply.body, HasSubstr("the index holds no document"));
  }
  EXPECT_EQ(rig.get("/documents").status, 400);
  for (const char* span : {"start=40&end=12", "start=0&end=999", "start=4&end=9", "start=-1&end=2",
                           "start=99999999999999999999&end=2"}) {
    EXPECT_EQ(rig.get(std::string("/documents?uri=/docs/steam%20engines.txt&") + span).status, 400)
        << span;
  }
}

TEST(HttpRoutes, ChatLogprobsListEachTokenAndTheLikeliest) {
  HttpRigOptions options;
  options.next = cited_answer;
  HttpRig rig(options);
  Json body = chat_body("who built the engine?");
  EXPECT_TRUE(rig.post("/v1/chat/completions", body).json()["choices"][0]["logprobs"].is_null());
  body["logprobs"] = true;
  body["top_logprobs"] = 2;
  const Json choice = rig.post("/v1/chat/completions", body).json()["choices"][0];
  const Json& content = choice["logprobs"]["content"];
  std::string text;
  for (const Json& token : content) {
    text += token["token"].get<std::string>();
    EXPECT_EQ(token["bytes"], Json::array({static_cast<unsigned char>(text.back())}));
    EXPECT_LT(token["logprob"].get<double>(), 0.0);
    ASSERT_EQ(token["top_logprobs"].size(), 2u);
    EXPECT_EQ(token["top_logprobs"][0]["token"], token["token"]);
    EXPECT_GE(token["top_logprobs"][0]["logprob"], token["top_logprobs"][1]["logprob"]);
  }
  EXPECT_EQ(text, choice["message"]["content"]);
  body.erase("top_logprobs");
  EXPECT_EQ(rig.post("/v1/chat/completions", body)
                .json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"],
            Json::array());
}

TEST(HttpRoutes, CompletionLogprobsAreLists) {
  HttpRigOptions options;
  options.next = fake::scripted(4, {'a', fake::kHello, fake::kHalfEuro, 0xAC, 'z'});
  HttpRig rig(options);
  const Json choice =
      rig.post("/v1/completions", Json{{"prompt", "Once"}, {"max_tokens", 8}, {"logprobs", 1}})
          .json()["choices"][0];
  const Json& lists = choice["logprobs"];
  EXPECT_EQ(lists["tokens"], (Json{"a", "hello", "\xEF\xBF\xBD", "\xEF\xBF\xBD", "z"}));
  EXPECT_EQ(lists["text_offset"], (Json{0, 1, 6, 7, 8}));
  ASSERT_EQ(lists["token_logprobs"].size(), 5u);
  ASSERT_EQ(lists["top_logprobs"].size(), 5u);
  EXPECT_EQ(lists["top_logprobs"][1]["hello"], lists["token_logprobs"][1]);
}

TEST(HttpRoutes, UsageTellsWhatThePrefixCacheHeld) {
  HttpRig rig;
  const std::string prompt(100, 'p');
  const Json body{{"prompt", prompt}, {"max_tokens", 4}};
  Json usage = rig.post("/v1/completions", body).json()["usage"];
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 0);
  usage = rig.post("/v1/completions", body).json()["usage"];
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 99);
  EXPECT_EQ(usage["prompt_tokens"], 100);
  const std::string metrics = rig.get("/metrics").body;
  EXPECT_THAT(metrics, HasSubstr("\nquarry_prompt_tokens_total 200\n"));
  EXPECT_THAT(metrics, HasSubstr("\nquarry_prompt_tokens_cached_total 99\n"));
}

TEST(HttpRoutes, HealthReadyAndMetrics) {
  HttpRig rig;
  EXPECT_EQ(rig.get("/healthz").json(), (Json{{"status", "ok"}}));
  EXPECT_EQ(rig.get("/readyz").json(), (Json{{"status", "ready"}}));
  rig.post("/v1/completions", Json{{"prompt", "Once"}, {"max_tokens", 4}});
  rig.get("/nowhere");
  // A request counts when its response has ended, which its client may see a moment earlier.
  const std::string last = "quarry_requests_total{route=\"other\",code=\"404\"} 1\n";
  HttpRig::Reply metrics = rig.get("/metrics");
  for (int i = 0; i < 500 && metrics.body.find(last) == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    metrics = rig.get("/metrics");
  }
  EXPECT_EQ(metrics.header("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  for (const char* line :
       {"quarry_build_info{version=\"",
        "quarry_requests_total{route=\"/v1/completions\",code=\"200\"} 1\n", last.c_str(),
        "quarry_request_duration_seconds_bucket{route=\"/healthz\",le=\"+Inf\"} 1\n",
        "quarry_ttft_seconds_count 1\n", "quarry_generations_total 1\n",
        "quarry_index_passages 7\n", "# TYPE process_resident_memory_bytes gauge\n"}) {
    EXPECT_THAT(metrics.body, HasSubstr(line));
  }
}

TEST(HttpRoutes, PageHasAStrictPolicyAndAnETag) {
  HttpRig rig;
  for (const char* path : {"/", "/page.js", "/page.css", "/source?uri=x&start=0&end=1"}) {
    const HttpRig::Reply reply = rig.get(path);
    EXPECT_EQ(reply.status, 200) << path;
    EXPECT_THAT(reply.header("Content-Security-Policy"),
                HasSubstr("default-src 'none'; script-src 'self'"));
    EXPECT_THAT(reply.header("Content-Security-Policy"),
                ::testing::Not(HasSubstr("unsafe-inline")));
    EXPECT_EQ(reply.header("X-Content-Type-Options"), "nosniff");
    const HttpRig::Reply again = rig.get(path, {{"If-None-Match", reply.header("ETag")}});
    EXPECT_EQ(again.status, 304) << path;
    EXPECT_EQ(again.body, "");
  }
}

}  // namespace
}  // namespace quarry::test
