#pragma once

#include <httplib.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "api/http/server.h"
#include "data/core/json.h"
#include "tests/generator/decode/fake_model.h"

namespace quarry::test {

// Two documents; every search finds one passage of each, the first with the given cosine.
class FakeRetriever : public Retriever {
 public:
  FakeRetriever();
  std::vector<Hit> search(const std::string& query, const SearchOptions& options) const override;
  std::vector<Hit> search(const std::string& query, const float* query_vector,
                          const SearchOptions& options) const override;
  const StoreManifest& manifest() const override { return manifest_; }
  StoreStats stats() const override;
  std::optional<Document> document(const std::string& uri) const override;
  void refresh() override {}

  double best_cosine = 0.9;  // set before the server runs

 private:
  StoreManifest manifest_;
  std::vector<Document> documents_;
};

// Vectors [bytes, first byte, 1] / norm.
std::shared_ptr<const Embedder> fake_embedder();

// The model's next token of "It was built by Watt [1], and coal burns [2].", whatever the prompt.
extern const char* const kCitedAnswer;
int32_t cited_answer(const std::vector<int32_t>& history, const LoraAdapter* adapter);

struct HttpRigOptions {
  ServerOptions server;  // port 0
  EngineOptions engine;
  fake::NextToken next = fake::hashed_letters;
  int64_t max_seq_len = 4096;
  bool with_retriever = true;
  double best_cosine = 0.9;
  std::shared_ptr<const Reranker> reranker;
};

// A Server on a free port over fake model, embedder and retriever, in a thread of its own.
class HttpRig {
 public:
  explicit HttpRig(HttpRigOptions options = HttpRigOptions());
  ~HttpRig();

  int port() const { return port_; }
  httplib::Client client() const;
  Engine& engine() { return *engine_; }
  fake::Model& model() { return *model_; }
  void stop() { server_->stop(); }
  // Waits for run() to return.
  void join();

  // One request on a connection of its own. `headers` may be empty.
  struct Reply {
    int status = 0;
    httplib::Headers headers;
    std::string body;
    Json json() const { return Json::parse(body); }
    std::string header(const std::string& name) const;
  };
  Reply get(const std::string& path, const httplib::Headers& headers = {}) const;
  Reply post(const std::string& path, const std::string& body,
             const httplib::Headers& headers = {}) const;
  Reply post(const std::string& path, const Json& body) const { return post(path, body.dump()); }

 private:
  fake::Model* model_;
  std::shared_ptr<Engine> engine_;
  std::unique_ptr<Pipeline> pipeline_;
  std::unique_ptr<Server> server_;
  int port_;
  std::thread thread_;
};

// A TCP connection that sends and reads bytes as a misbehaving client would.
class RawClient {
 public:
  explicit RawClient(int port);
  ~RawClient() { close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  // False once the server closed the connection.
  bool send(const std::string& bytes);
  void send_post(const std::string& path, const std::string& body);
  // Everything up to and including `text`, or up to the connection's end or 10 s.
  std::string read_until(const std::string& text);
  std::string read_all() { return read_until(""); }
  void close();

 private:
  int fd_;
  std::string received_;
};

// JSON of the `data:` events of a stream; "[DONE]" becomes a JSON string.
std::vector<Json> parse_events(const std::string& body);

// Polls until `condition` holds; false after `seconds`.
bool wait_for(const std::function<bool()>& condition, double seconds = 10.0);

inline Json chat_body(const std::string& question) {
  return {{"model", "fake"}, {"messages", {{{"role", "user"}, {"content", question}}}}};
}

}  // namespace quarry::test
