#include "tests/api/http_rig.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace quarry::test {
namespace {

using Clock = std::chrono::steady_clock;

class LengthEncoder : public TextEncoder {
 public:
  int64_t dim() const override { return 3; }
  int64_t max_tokens() const override { return 64; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }
  std::vector<float> encode(const std::vector<std::string>& texts) const override {
    std::vector<float> vectors;
    for (const std::string& text : texts) {
      const float values[] = {static_cast<float>(text.size()),
                              static_cast<float>(static_cast<unsigned char>(text[0])), 1.0f};
      const float norm = std::sqrt(values[0] * values[0] + values[1] * values[1] + 1.0f);
      for (const float value : values) vectors.push_back(value / norm);
    }
    return vectors;
  }

 private:
  fake::ByteTokenizer tokenizer_;
};

Document make_document(int64_t id, const std::string& uri, const std::string& title,
                       const std::string& text) {
  Document document;
  document.id = id;
  document.uri = uri;
  document.title = title;
  document.format = "txt";
  document.text = text;
  document.metadata = {{"author", "Ada"}};
  return document;
}

}  // namespace

FakeRetriever::FakeRetriever() {
  manifest_.embedder_name = "length";
  documents_.push_back(make_document(1, "/docs/steam engines.txt", "Engines",
                                     "Caf\xC3\xA9 talk. The steam engine was built by Watt. End."));
  documents_.push_back(make_document(2, "/docs/coal.txt", "Coal", "Coal burns. <b>Hot</b>."));
}

std::vector<Hit> FakeRetriever::search(const std::string& query,
                                       const SearchOptions& options) const {
  return search(query, nullptr, options);
}

std::vector<Hit> FakeRetriever::search(const std::string&, const float*,
                                       const SearchOptions& options) const {
  const std::string quotes[] = {"The steam engine was built by Watt.", "Coal burns."};
  std::vector<Hit> hits;
  for (size_t i = 0; i < documents_.size(); ++i) {
    const Document& document = documents_[i];
    const auto author = options.filter.find("author");
    if (author != options.filter.end() && author->second != "Ada") continue;
    Hit hit;
    hit.passage.id = static_cast<int64_t>(i) + 1;
    hit.passage.document_id = document.id;
    hit.passage.document_uri = document.uri;
    hit.passage.title = document.title;
    hit.passage.heading = i == 0 ? "History > Watt" : "";
    hit.passage.text = quotes[i];
    hit.passage.start = static_cast<int64_t>(document.text.find(quotes[i]));
    hit.passage.end = hit.passage.start + static_cast<int64_t>(quotes[i].size());
    hit.passage.metadata = document.metadata;
    hit.score = 1.0 - 0.5 * static_cast<double>(i);
    hit.dense_score = best_cosine - 0.1 * static_cast<double>(i);
    hits.push_back(std::move(hit));
  }
  if (hits.size() > static_cast<size_t>(options.top_k)) {
    hits.resize(static_cast<size_t>(options.top_k));
  }
  return hits;
}

StoreStats FakeRetriever::stats() const {
  StoreStats stats;
  stats.documents = 2;
  stats.passages = 7;
  return stats;
}

std::optional<Document> FakeRetriever::document(const std::string& uri) const {
  for (const Document& document : documents_) {
    if (document.uri == uri) return document;
  }
  return std::nullopt;
}

std::shared_ptr<const Embedder> fake_embedder() {
  LoadedEncoder loaded;
  loaded.name = "length";
  loaded.model = std::make_unique<LengthEncoder>();
  return std::make_shared<const Embedder>(std::move(loaded));
}

const char* const kCitedAnswer = "It was built by Watt [1], and coal burns [2].";

int32_t cited_answer(const std::vector<int32_t>& history, const LoraAdapter*) {
  const std::string answer = kCitedAnswer;
  // How much of the answer the history ends with.
  for (size_t length = std::min(answer.size(), history.size()); length > 0; --length) {
    bool same = true;
    for (size_t i = 0; i < length && same; ++i) {
      same = history[history.size() - length + i] == static_cast<unsigned char>(answer[i]);
    }
    if (same) return length == answer.size() ? fake::kEnd : answer[length];
  }
  return answer[0];
}

HttpRig::HttpRig(HttpRigOptions options) {
  auto model = std::make_unique<fake::Model>(options.next, options.max_seq_len);
  model_ = model.get();
  engine_ = std::make_shared<Engine>(fake::make_generator(std::move(model)), options.engine);
  std::shared_ptr<FakeRetriever> retriever;
  if (options.with_retriever) {
    retriever = std::make_shared<FakeRetriever>();
    retriever->best_cosine = options.best_cosine;
  }
  pipeline_ = std::make_unique<Pipeline>(retriever, fake_embedder(), engine_, options.reranker);
  options.server.port = 0;
  server_ = std::make_unique<Server>(*pipeline_, options.server);
  port_ = server_->bind();
  thread_ = std::thread([this] { server_->run(); });
}

HttpRig::~HttpRig() {
  model_->open_gate();
  if (thread_.joinable()) {
    server_->stop();
    thread_.join();
  }
}

void HttpRig::join() { thread_.join(); }

httplib::Client HttpRig::client() const {
  httplib::Client client("127.0.0.1", port_);
  client.set_read_timeout(30);
  return client;
}

std::string HttpRig::Reply::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

HttpRig::Reply HttpRig::get(const std::string& path, const httplib::Headers& headers) const {
  const httplib::Result result = client().Get(path, headers);
  if (!result) return {};
  return {result->status, result->headers, result->body};
}

HttpRig::Reply HttpRig::post(const std::string& path, const std::string& body,
                             const httplib::Headers& headers) const {
  const httplib::Result result = client().Post(path, headers, body, "application/json");
  if (!result) return {};
  return {result->status, result->headers, result->body};
}

RawClient::RawClient(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
}

bool RawClient::send(const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t n = ::send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += static_cast<size_t>(n);
  }
  return true;
}

void RawClient::send_post(const std::string& path, const std::string& body) {
  send("POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
       "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
}

std::string RawClient::read_until(const std::string& text) {
  const Clock::time_point deadline = Clock::now() + std::chrono::seconds(10);
  while (text.empty() || received_.find(text) == std::string::npos) {
    pollfd entry{fd_, POLLIN, 0};
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0 || ::poll(&entry, 1, static_cast<int>(left)) <= 0) break;
    char bytes[4096];
    const ssize_t n = ::recv(fd_, bytes, sizeof(bytes), 0);
    if (n <= 0) break;
    received_.append(bytes, static_cast<size_t>(n));
  }
  const size_t found = text.empty() ? std::string::npos : received_.find(text);
  const size_t end = found == std::string::npos ? received_.size() : found + text.size();
  const std::string taken = received_.substr(0, end);
  received_.erase(0, end);
  return taken;
}

void RawClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

std::vector<Json> parse_events(const std::string& body) {
  std::vector<Json> events;
  size_t at = 0;
  while ((at = body.find("data: ", at)) != std::string::npos) {
    const size_t begin = at + 6;
    const size_t end = body.find("\n\n", begin);
    if (end == std::string::npos) break;
    const std::string data = body.substr(begin, end - begin);
    events.push_back(data == "[DONE]" ? Json(data) : Json::parse(data));
    at = end;
  }
  return events;
}

bool wait_for(const std::function<bool()>& condition, double seconds) {
  const Clock::time_point deadline =
      Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
  while (!condition()) {
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace quarry::test
