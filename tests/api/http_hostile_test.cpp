// What a client may send that means harm: none of it is answered 500 or without a word.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/api/http_rig.h"

namespace quarry::test {
namespace {

using ::testing::HasSubstr;

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

}  // namespace
}  // namespace quarry::test
