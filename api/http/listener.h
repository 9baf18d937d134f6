#pragma once

#include <httplib.h>

#include <condition_variable>
#include <mutex>
#include <set>

#include "api/http/context.h"

namespace quarry::http {

// Accepts connections and serves each on a thread of its own. httplib parses requests and writes
// responses; the socket, its threads, its limits and the drain are ours, because httplib's pool
// blocks once every worker holds a stream, its bind shares a taken port (SO_REUSEPORT) and its
// streams do not notice a client that leaves.
class Listener : private httplib::Server {
 public:
  // `context` is kept by reference.
  explicit Listener(ServerContext& context);
  ~Listener() override;

  int bind(const std::string& host, int port);  // see quarry::Server::bind()
  void run();                                   // see quarry::Server::run()
  void stop() noexcept;

 private:
  void accept_one();
  void shed(int fd);
  void serve(Connection& connection);
  // One request. False: the connection is to be closed.
  bool serve_request(Connection& connection, bool last);
  void finish(const Exchange& exchange, const Connection& connection);
  // Closes connections that wait for a request, or all.
  void close_connections(bool idle_only);
  void install_handlers();

  ServerContext& context_;
  int listen_fd_ = -1;
  int wake_fd_ = -1;  // eventfd: stop() writes it
  std::string address_;

  std::mutex mutex_;
  std::condition_variable all_closed_;
  std::set<Connection*> connections_;  // guarded by mutex_
  std::set<Connection*> idle_;         // guarded by mutex_; between two requests
};

}  // namespace quarry::http
