// /v1/adapters and what answers which request.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/api/http_rig.h"
#include "tests/support/temporary_folder.h"

namespace quarry::test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json weights(const Json& values) { return Json{{"weights", values}}; }

// A server that takes adapters from below root/: root/one, root/two and root/wide (rank 8).
class HttpAdapters : public ::testing::Test {
 protected:
  explicit HttpAdapters(bool adapter_wants_passages = false) {
    root_ = fs::canonical(folder_.path()) / "root";
    fake::write_adapter(root_ / "one", 1.0f);
    fake::write_adapter(root_ / "two", 2.0f);
    fake::write_adapter(root_ / "wide", 3.0f, 8);
    fake::write_adapter(folder_.path() / "outside", 4.0f);
    HttpRigOptions options;
    options.server.adapter_root = root_;
    options.server.ask.adapter = "house";
    options.server.adapter_wants_passages = adapter_wants_passages;
    options.engine.max_lora_rank = 4;
    rig_ = std::make_unique<HttpRig>(options);
    rig_->engine().adapters().load("house", root_ / "one");
  }

  HttpRig::Reply load(const std::string& name, const std::string& path, bool replace = false) {
    return rig_->post("/v1/adapters", Json{{"name", name}, {"path", path}, {"replace", replace}});
  }
  HttpRig::Reply remove(const std::string& name) {
    const httplib::Result result = rig_->client().Delete("/v1/adapters/" + name);
    if (!result) return {};
    return {result->status, result->headers, result->body};
  }
  // What the model writes; "": no model is named.
  Json complete(const std::string& model) {
    Json body = {{"prompt", "Once"}, {"max_tokens", 32}};
    if (!model.empty()) body["model"] = model;
    return rig_->post("/v1/completions", body).json();
  }
  std::string text(const std::string& model) { return complete(model)["choices"][0]["text"]; }
  std::vector<std::string> names() { return rig_->engine().adapters().names(); }

  void expect_error(const HttpRig::Reply& reply, int status, const std::string& message) {
    EXPECT_EQ(reply.status, status) << reply.body;
    EXPECT_THAT(reply.json()["error"]["message"].get<std::string>(), HasSubstr(message));
  }

  TemporaryFolder folder_;
  fs::path root_;
  std::unique_ptr<HttpRig> rig_;
};

class HttpAdapterForPassages : public HttpAdapters {
 protected:
  HttpAdapterForPassages() : HttpAdapters(true) {}
};

TEST_F(HttpAdapterForPassages, WithoutRetrievalTheBaseWrites) {
  EXPECT_EQ(complete("")["model"], "fake");
  EXPECT_EQ(complete("")["adapter"], nullptr);
  EXPECT_EQ(complete("house")["adapter"], "house");
  Json body = chat_body("who built the engine?");
  body.erase("model");
  EXPECT_EQ(rig_->post("/v1/chat/completions", body).json()["adapter"], "house");
  body["retrieval"] = false;
  const Json chat = rig_->post("/v1/chat/completions", body).json();
  EXPECT_EQ(chat["model"], "fake");
  EXPECT_EQ(chat["adapter"], nullptr);
}

TEST_F(HttpAdapters, EachRequestGetsTheModelThatItNames) {
  ASSERT_EQ(load("two", "two").status, 200);
  EXPECT_NE(text("house"), text("two"));
  EXPECT_NE(text("house"), text("fake"));
  EXPECT_EQ(text(""), text("house"));
  EXPECT_EQ(text("fake"), fake::expected_text(fake::hashed_letters, {'O', 'n', 'c', 'e'}, 32));
  EXPECT_EQ(complete("")["model"], "house");
  EXPECT_EQ(complete("")["adapter"], "house");
  EXPECT_EQ(complete("fake")["adapter"], nullptr);
  Json body = chat_body("who built the engine?");
  EXPECT_EQ(rig_->post("/v1/chat/completions", body).json()["adapter"], nullptr);
  body.erase("model");
  const Json chat = rig_->post("/v1/chat/completions", body).json();
  EXPECT_EQ(chat["model"], "house");
  EXPECT_EQ(chat["adapter"], "house");
  body["stream"] = true;
  for (const Json& event : parse_events(rig_->post("/v1/chat/completions", body).body)) {
    if (!event.is_object()) continue;
    EXPECT_EQ(event["adapter"], "house");
  }
}

TEST_F(HttpAdapters, ModelsBeginWithTheDefaultAndNameRootAndParent) {
  load("alpha", "two");
  load("mix", "two");
  remove("mix");
  rig_->post("/v1/adapters/combine", Json{{"name", "mix"}, {"weights", {{"alpha", 0.5}}}});
  const Json models = rig_->get("/v1/models").json()["data"];
  ASSERT_EQ(models.size(), 5u);
  EXPECT_EQ(models[0]["id"], "house");
  EXPECT_EQ(models[0]["object"], "model");
  EXPECT_EQ(models[0]["root"], (root_ / "one").string());
  EXPECT_EQ(models[0]["parent"], "fake");
  EXPECT_EQ(models[1]["id"], "fake");
  EXPECT_EQ(models[1]["parent"], nullptr);
  EXPECT_EQ(models[2]["id"], "alpha");
  EXPECT_EQ(models[3]["root"], "alpha:0.5");
}

TEST_F(HttpAdapters, LoadSwapAndRemoveAreListed) {
  const Json loaded = load("live", (root_ / "one").string()).json();
  ASSERT_EQ(loaded["data"].size(), 2u);
  const Json wanted = {{"name", "live"},         {"origin", (root_ / "one").string()},
                       {"weights", nullptr},     {"rank", 1},
                       {"scale", 1.0},           {"default", false},
                       {"requests_in_flight", 0}};
  EXPECT_EQ(loaded["data"][1], wanted);
  EXPECT_EQ(loaded["data"][0]["default"], true);
  const std::string before = text("live");
  const Json swapped = load("live", "two", true).json();
  EXPECT_EQ(swapped["data"][1]["origin"], (root_ / "two").string());
  EXPECT_NE(text("live"), before);
  EXPECT_EQ(remove("live").json()["data"].size(), 1u);
  expect_error(rig_->post("/v1/completions", Json{{"prompt", "x"}, {"model", "live"}}), 404,
               "The model 'live' does not exist here; there are: fake, house");
  EXPECT_EQ(rig_->get("/v1/adapters").json()["base"]["model"], "fake");
}

TEST_F(HttpAdapters, CombineFuseAndUnfuse) {
  load("two", "two");
  const std::string base = text("fake");
  const Json mixed = rig_->post("/v1/adapters/combine",
                                Json{{"name", "mix"}, {"weights", {{"two", 1}, {"house", -0.5}}}})
                         .json();
  EXPECT_EQ(mixed["data"][1]["name"], "mix");
  EXPECT_EQ(mixed["data"][1]["rank"], 2);
  EXPECT_EQ(mixed["data"][1]["origin"], nullptr);
  EXPECT_EQ(mixed["data"][1]["weights"], (Json{{"house", -0.5}, {"two", 1.0}}));
  const Json fused = rig_->post("/v1/adapters/fuse", weights({{"two", 1.0}})).json();
  EXPECT_EQ(fused["base"]["fused"], (Json{{"two", 1.0}}));
  EXPECT_EQ(text("fake"), text("two"));
  EXPECT_EQ(complete("fake")["adapter"], "two:1");
  expect_error(remove("two"), 400, "is fused into the base model (two:1); unfuse first");
  expect_error(load("two", "one", true), 400, "is fused into the base model");
  const Json unfused = rig_->post("/v1/adapters/unfuse", Json::object()).json();
  EXPECT_EQ(unfused["base"]["fused"], nullptr);
  EXPECT_EQ(text("fake"), base);
}

TEST_F(HttpAdapters, WrongRequestsAreRefusedWithTheReason) {
  expect_error(rig_->post("/v1/adapters", Json{{"path", "one"}}), 400, "'name' is missing");
  expect_error(load("fake", "one"), 400, "'name' is 'fake', the base model's");
  expect_error(load("house", "one"), 400, "adapter 'house': the name is taken");
  expect_error(load("x", "one", true), 404, "no adapter is named 'x'; there are: house");
  expect_error(load("x", "none"), 404, "none: no such adapter folder");
  expect_error(load("x", "wide"), 400, "has rank 8, above the limit of 4 (max_lora_rank)");
  expect_error(remove("x"), 404, "no adapter is named 'x'");
  expect_error(remove("house"), 400, "answers requests that name no model and cannot be removed");
  expect_error(rig_->post("/v1/adapters/fuse", Json::object()), 400, "'weights' is missing");
  for (const Json& bad : {Json::object(), Json{1}, Json{{"house", "1"}}}) {
    expect_error(rig_->post("/v1/adapters/fuse", weights(bad)), 400,
                 "an object {adapter: number} that is not empty");
  }
  expect_error(rig_->post("/v1/adapters/fuse", weights({{"gone", 1}})), 404,
               "no adapter is named 'gone'");
  expect_error(rig_->post("/v1/adapters/combine", weights({{"house", 1}})), 400,
               "'name' is missing");
  const HttpRig::Reply get = rig_->get("/v1/adapters/house");
  expect_error(get, 405, "method GET is not allowed");
  EXPECT_EQ(get.header("Allow"), "DELETE, OPTIONS");
  EXPECT_THAT(names(), ElementsAre("house"));
}

TEST_F(HttpAdapters, PathsLieBelowTheRootWhateverTheyAreCalled) {
  fs::create_directory_symlink(folder_.path() / "outside", root_ / "link");
  fs::create_directory(root_ / "linked files");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    fs::create_symlink(folder_.path() / "outside" / file, root_ / "linked files" / file);
  }
  fs::create_directory(folder_.path() / "root2");
  const std::string outside = (folder_.path() / "outside").string();
  for (const std::string& path :
       {std::string("../outside"), outside, std::string("one/../../outside"),
        std::string("none/../../outside"), std::string("link"), std::string("link/../outside"),
        std::string("linked files"), std::string("/etc"), (folder_.path() / "root2").string()}) {
    expect_error(load("x", path), 400, "which does not lie below " + root_.string());
  }
  expect_error(load("x", ""), 400, "'path' is not the path of a folder");
  expect_error(load("x", std::string("one\0/..", 7)), 400, "'path' is not the path of a folder");
  EXPECT_THAT(names(), ElementsAre("house"));
  fs::create_directory_symlink(root_ / "two", root_ / "inside");
  EXPECT_EQ(load("x", "inside/../one/").status, 200);  // a link that stays below the root
  EXPECT_EQ(load("y", "inside").status, 200);
}

TEST_F(HttpAdapters, OnlySafetensorsAreReadAndDamageIsTheClients) {
  fs::rename(root_ / "one" / "adapter_model.safetensors", root_ / "one" / "adapter_model.bin");
  expect_error(load("x", "one"), 400, "adapter_model.bin, a Python pickle");
  fs::resize_file(root_ / "two" / "adapter_model.safetensors", 20);
  EXPECT_EQ(load("x", "two").status, 400);
  EXPECT_EQ(load("house", "two", true).status, 400);
  EXPECT_EQ(rig_->get("/v1/adapters").json()["data"][0]["origin"], (root_ / "one").string());
}

TEST_F(HttpAdapters, SwapUnderManyClientsFailsAndMixesNothing) {
  const std::string one = text("house");
  ASSERT_EQ(load("two", "two").status, 200);
  const std::string two = text("two");
  ASSERT_NE(one, two);
  std::atomic<int> seen_one{0};
  std::atomic<int> seen_two{0};
  std::atomic<int> running{16};
  std::vector<std::thread> clients;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&, i] {
      for (int round = 0; round < 8; ++round) {
        const std::string model = i % 4 == 0 ? "two" : "house";
        const std::string answer = text(model);
        EXPECT_TRUE(answer == two || (answer == one && model == "house"))
            << model << ": " << answer;
        ++(answer == one ? seen_one : seen_two);
      }
      --running;
    });
  }
  for (int swap = 1; running > 0; ++swap) {
    EXPECT_EQ(load("house", swap % 2 == 0 ? "one" : "two", true).status, 200);
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(seen_one + seen_two, 128);
  EXPECT_GT(seen_one, 0);
}

TEST(HttpAdaptersOff, ChangesAreForbiddenWithoutARoot) {
  HttpRig rig;
  for (const char* path :
       {"/v1/adapters", "/v1/adapters/combine", "/v1/adapters/fuse", "/v1/adapters/unfuse"}) {
    const HttpRig::Reply reply = rig.post(path, Json::object());
    EXPECT_EQ(reply.status, 403);
    EXPECT_THAT(reply.body, HasSubstr("start it with `quarry serve --adapter-root DIR`"));
    EXPECT_EQ(reply.json()["error"]["type"], "permission_error");
  }
  const httplib::Result removed = rig.client().Delete("/v1/adapters/x");
  ASSERT_TRUE(removed);
  EXPECT_EQ(removed->status, 403);
  EXPECT_EQ(rig.get("/v1/adapters").json()["data"], Json::array());
}

// Writes the "not in the documents" reply, with white space around it.
TEST(HttpAdaptersReply, TheModelsOwnNotInDocumentsIsNoAnswer) {
  HttpRigOptions options;
  options.next = [](const std::vector<int32_t>& history, const LoraAdapter*) -> int32_t {
    const std::string reply = " " + std::string(kNotInDocuments) + "\n";
    for (size_t length = std::min(reply.size(), history.size()); length > 0; --length) {
      const bool same = std::equal(reply.begin(), reply.begin() + static_cast<int64_t>(length),
                                   history.end() - static_cast<int64_t>(length));
      if (same) return length == reply.size() ? fake::kEnd : reply[length];
    }
    return reply[0];
  };
  HttpRig rig(options);
  Json body = chat_body("who built the engine?");
  const Json answer = rig.post("/v1/chat/completions", body).json();
  EXPECT_THAT(answer["choices"][0]["message"]["content"].get<std::string>(),
              HasSubstr(kNotInDocuments));
  EXPECT_EQ(answer["choices"][0]["message"]["annotations"], Json::array());
  EXPECT_EQ(answer["retrieval"]["answered"], false);
  EXPECT_EQ(answer["retrieval"]["citations"], Json::array());
  body["stream"] = true;
  Json last;
  for (const Json& event : parse_events(rig.post("/v1/chat/completions", body).body)) {
    if (event.is_object() && event.contains("retrieval")) last = event;
  }
  EXPECT_EQ(last["retrieval"]["answered"], false);
  EXPECT_EQ(last["choices"][0]["delta"]["annotations"], Json::array());
  body["stream"] = false;
  body["retrieval"] = false;
  EXPECT_EQ(rig.post("/v1/chat/completions", body).json()["retrieval"], nullptr);
}

}  // namespace
}  // namespace quarry::test
