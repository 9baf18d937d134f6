// What a client may send that means harm: none of it is answered 500 or without a word.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/api/http_rig.h"

namespace quarry::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(HttpHostile, WhatAClientSentIsCutInMessages) {
  HttpRig rig;
  const std::string long_text(200000, 'm');
  Json model = chat_body("who built the engine?");
  model["model"] = long_text;
  Json role = chat_body("x");
  role["messages"][0]["role"] = long_text;
  Json decode = chat_body("x");
  decode["retrieval"] = {{"decode", long_text}};
  const std::pair<const char*, Json> posts[] = {
      {"/v1/chat/completions", model},
      {"/v1/chat/completions", role},
      {"/v1/chat/completions", decode},
      {"/v1/completions", {{"model", long_text}, {"prompt", "x"}}},
      {"/v1/embeddings", {{"model", long_text}, {"input", "x"}}},
      {"/v1/search", {{"query", "x"}, {"mode", long_text}}},
      {"/v1/search", {{"query", "x"}, {"fusion", long_text}}}};
  for (const auto& [path, body] : posts) {
    const HttpRig::Reply reply = rig.post(path, body);
    EXPECT_THAT(reply.status, ::testing::AnyOf(400, 404)) << path;
    EXPECT_LT(reply.body.size(), 2000U) << path;
    EXPECT_TRUE(reply.json()["error"]["param"].is_string()) << reply.body;
  }
  const HttpRig::Reply mode = rig.post("/v1/search", Json{{"query", "x"}, {"mode", long_text}});
  EXPECT_THAT(mode.json()["error"]["message"].get<std::string>(), HasSubstr("m ... mm"))
      << "the end of the message stays";
  EXPECT_THAT(mode.body, HasSubstr("use dense, lexical or hybrid"));
}

TEST(HttpHostile, AZeroByteEndsNoMessage) {
  HttpRig rig;
  EXPECT_THAT(rig.get("/v1/models/a%00b").body, HasSubstr("'a?b' does not exist here"));
  const HttpRig::Reply document = rig.get("/documents?uri=a%00b");
  EXPECT_THAT(document.body, HasSubstr("holds no document 'a?b'"));
  EXPECT_EQ(document.json()["error"]["param"], "uri");
}

TEST(HttpHostile, ErrorsOfTheSearchNameTheirField) {
  HttpRig rig;
  Json reranked = chat_body("who built the engine?");
  reranked["retrieval"] = {{"rerank_candidates", 5}};
  Json sampled = chat_body("who built the engine?");
  sampled["retrieval"] = {{"decode", "rag-token"}};
  sampled["temperature"] = 1;
  Json filter;
  for (int i = 0; i < 101; ++i) filter[std::to_string(i)] = "x";
  const std::tuple<const char*, Json, const char*> posts[] = {
      {"/v1/search", {{"query", "x"}, {"filter", filter}}, "filter"},
      {"/v1/search", {{"query", "x"}, {"rerank_candidates", 5}}, "rerank_candidates"},
      {"/v1/chat/completions", reranked, "retrieval.rerank_candidates"},
      {"/v1/chat/completions", sampled, "retrieval.decode"},
      {"/v1/chat/completions", chat_body(" "), "messages"}};
  for (const auto& [path, body, param] : posts) {
    const HttpRig::Reply reply = rig.post(path, body);
    EXPECT_EQ(reply.status, 400) << reply.body;
    EXPECT_EQ(reply.json()["error"]["param"], param) << reply.body;
  }
}

// All that comes back for these bytes, once the server has closed the connection.
std::string answer_to(const HttpRig& rig, const std::string& bytes) {
  RawClient client(rig.port());
  client.send(bytes);
  return client.read_all();
}

size_t count_answers(const std::string& text) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find("HTTP/1.1 ", at)) != std::string::npos; ++at) ++count;
  return count;
}

TEST(HttpHostile, NoRequestHidesBehindAnother) {
  HttpRig rig;
  const std::string hidden = "GET /v1/models HTTP/1.1\r\n\r\n";
  const std::string post = "POST /v1/search HTTP/1.1\r\n";
  const std::string length = concat("Content-Length: ", hidden.size(), "\r\n");
  const std::pair<std::string, const char*> refused[] = {
      {post + "Content-Length: 0\r\n" + length, "more than one of Content-Length and"},
      {post + "Transfer-Encoding: chunked\r\n" + length, "more than one of Content-Length and"},
      {post + "Transfer-Encoding: gzip\r\n", "Transfer-Encoding is 'gzip', expected chunked"},
      {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
       "more than one of Content-Length and"},
      {post + "Content-Length : 28\r\n", "the header name 'Content-Length ' holds a blank"},
      {"DELETE /v1/adapters/x HTTP/1.1\r\nContent-Length: 5, 40\r\n", "Content-Length is '5, 40'"},
      {"hello there\r\n", "the request is not valid HTTP"}};
  for (const auto& [headers, message] : refused) {
    const std::string answer = answer_to(rig, headers + "\r\n" + hidden);
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 400 "));
    EXPECT_THAT(answer, HasSubstr(message));
    EXPECT_EQ(count_answers(answer), 1U) << answer;
  }
  // What httplib drops or leaves of these must not be read as a request either.
  const std::string left[] = {post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + hidden,
                              post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}" + hidden,
                              post + "Content-Length: 28\n\r\n" + hidden,
                              post + "Content-Length:\r\n\r\n" + hidden,
                              post + "\r\n" + hidden,
                              post + "Content-Length:\r\n 28\r\n\r\n" + hidden,
                              "GET /healthz HTTP/1.1\r\nContent-Length: 28\n\r\n" + hidden};
  for (const std::string& bytes : left) {
    EXPECT_EQ(count_answers(answer_to(rig, bytes)), 1U) << bytes;
  }
  const std::string get = answer_to(rig, "GET /healthz HTTP/1.1\r\n" + length + "\r\n" + hidden);
  EXPECT_THAT(get, StartsWith("HTTP/1.1 200 "));
  EXPECT_EQ(count_answers(get), 1U) << "a body where there is none is no request";
}

TEST(HttpHostile, AFirstLineThatDoesNotEndIsAnswered) {
  HttpRigOptions options;
  options.server.header_timeout_seconds = 0.2;
  HttpRig rig(options);
  EXPECT_THAT(answer_to(rig, "GET /heal"), StartsWith("HTTP/1.1 408 "));
  const std::string too_long = answer_to(rig, "GET /" + std::string(200000, 'a'));
  EXPECT_THAT(too_long, StartsWith("HTTP/1.1 414 "));
  EXPECT_THAT(too_long, HasSubstr("the request's address is too long"));
}

TEST(HttpHostile, ABadRangeIsAnErrorObject) {
  HttpRig rig;
  RawClient client(rig.port());
  client.send("GET / HTTP/1.1\r\nRange: bytes=0-1,5-,-9999999999999999999\r\n\r\n");
  const std::string answer = client.read_until("}}");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 416 "));
  EXPECT_THAT(answer,
              HasSubstr("\r\n\r\n{\"error\":{\"message\":\"the Range header is not valid\""));
  EXPECT_THAT(answer, Not(HasSubstr("multipart")));
}

}  // namespace
}  // namespace quarry::test
