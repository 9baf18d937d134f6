#include "api/http/listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "api/http/routes.h"

namespace quarry::http {
namespace {

constexpr int kMaxRequestsPerConnection = 10000;
constexpr int kBacklog = 1024;
constexpr const char* kBadRequest = "the request is not valid HTTP";
constexpr const char* kLongAddress = "the request's address is too long";
constexpr const char* kLateRequest = "the request did not arrive in time";
constexpr double kCancelGraceSeconds = 3.0;  // for cancelled requests to say so to their clients

// httplib's callbacks get no per-connection argument; each connection has its own thread.
thread_local Exchange* current_exchange = nullptr;

struct AddressList {
  addrinfo* first = nullptr;
  ~AddressList() {
    if (first != nullptr) ::freeaddrinfo(first);
  }
};

ConnectionLimits limits_of(const ServerOptions& options) {
  ConnectionLimits limits;
  // Chunked framing may add a few bytes to each byte of the body.
  limits.max_body_bytes = options.max_payload_bytes + (options.max_payload_bytes >> 3) + 65536;
  limits.header_timeout_seconds = options.header_timeout_seconds;
  limits.body_timeout_seconds = options.body_timeout_seconds;
  limits.write_timeout_seconds = options.write_timeout_seconds;
  return limits;
}

int bound_port(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  const uint16_t port = address.ss_family == AF_INET6
                            ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                            : reinterpret_cast<sockaddr_in*>(&address)->sin_port;
  return ntohs(port);
}

// A listening socket on one address, or -1 with errno.
int open_listener(const addrinfo& address) {
  const int fd = ::socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(fd, address.ai_addr, address.ai_addrlen) == 0 && ::listen(fd, kBacklog) == 0) {
    return fd;
  }
  const int reason = errno;
  ::close(fd);
  errno = reason;
  return -1;
}

// A whole response with an error, for where httplib makes none.
std::string error_response(const char* status_line, const ApiError& error) {
  const std::string body = dump_json(error_body(error));
  const std::string retry = error.retry_after_s > 0 ? "Retry-After: 1\r\n" : "";
  return concat("HTTP/1.1 ", status_line, "\r\nContent-Type: application/json\r\n", retry,
                "Connection: close\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
}

void send(Connection& connection, const std::string& response) {
  connection.write(response.data(), response.size());
}

// httplib leaves without a word when the first line of a request does not end.
void answer_half_line(Connection& connection, Exchange& exchange) {
  if (connection.too_large()) {
    exchange.status = 414;
    send(connection, error_response("414 URI Too Long", ApiError(414, kLongAddress)));
  } else if (connection.timed_out()) {
    exchange.status = 408;
    send(connection, error_response("408 Request Timeout", ApiError(408, kLateRequest)));
  }
}

// Whether bytes of a body may stand behind what httplib reads: the method has none, its length is
// not told or not understood, or it comes in chunks, of which httplib leaves what is broken.
bool may_leave_body(const httplib::Request& request) {
  const std::string length = request.get_header_value("Content-Length");
  if (request.has_header("Transfer-Encoding")) return true;
  const bool takes_body = request.method == "POST" || request.method == "DELETE";
  return takes_body ? length.empty() : !(length.empty() || length == "0");
}

}  // namespace

Listener::Listener(ServerContext& context) : context_(context) {
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  QUARRY_CHECK(wake_fd_ >= 0, ErrorCode::kUnavailable, "eventfd: ", std::strerror(errno));
  install_handlers();
}

Listener::~Listener() {
  if (listen_fd_ >= 0) ::close(listen_fd_);
  ::close(wake_fd_);
}

int Listener::bind(const std::string& host, int port) {
  QUARRY_CHECK(port >= 0 && port <= 65535, ErrorCode::kInvalidArgument, "port is ", port,
               ", expected 0 to 65535");
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  AddressList addresses;
  const int failed =
      ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &addresses.first);
  QUARRY_CHECK(failed == 0, ErrorCode::kInvalidArgument, "host '", host,
               "': ", ::gai_strerror(failed));
  int reason = 0;
  for (addrinfo* entry = addresses.first; entry != nullptr && listen_fd_ < 0;
       entry = entry->ai_next) {
    listen_fd_ = open_listener(*entry);
    if (listen_fd_ < 0) reason = errno;
  }
  QUARRY_CHECK(listen_fd_ >= 0 || reason != EADDRINUSE, ErrorCode::kUnavailable, "port ", port,
               " on ", host, " is in use by another program; choose another port");
  QUARRY_CHECK(listen_fd_ >= 0 || reason != EADDRNOTAVAIL, ErrorCode::kInvalidArgument, "host '",
               host, "' is not an address of this machine");
  QUARRY_CHECK(listen_fd_ >= 0, ErrorCode::kUnavailable, "cannot listen on ", host, ":", port, ": ",
               std::strerror(reason));
  svr_sock_ = listen_fd_;  // httplib ends streams when it is closed
  return bound_port(listen_fd_);
}

void Listener::stop() noexcept {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_fd_, &one, sizeof(one));
}

void Listener::run() {
  using Clock = std::chrono::steady_clock;
  QUARRY_CHECK(listen_fd_ >= 0, ErrorCode::kInvalidArgument, "run() before bind()");
  Clock::time_point stopped_at;
  while (true) {
    pollfd entries[2] = {{listen_fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    const bool draining = context_.draining;
    // While draining the wake descriptor stays readable: only the listener is polled.
    ::poll(entries, draining ? 1 : 2, draining ? 10 : -1);
    if (!draining && (entries[1].revents & POLLIN) != 0) {
      context_.draining = true;
      stopped_at = Clock::now();
    }
    if ((entries[0].revents & POLLIN) != 0) accept_one();
    if (!context_.draining) continue;
    const double waited = std::chrono::duration<double>(Clock::now() - stopped_at).count();
    const double patience = context_.options.drain_timeout_seconds;
    if (context_.active == 0 || waited > patience + kCancelGraceSeconds) break;
    if (waited > patience) context_.cancelling = true;
  }
  context_.cancelling = true;
  ::close(listen_fd_);
  listen_fd_ = -1;
  close_connections(true);
  std::unique_lock<std::mutex> lock(mutex_);
  // Answers on their way out (a last /readyz) get a moment; then every socket is shut.
  if (!all_closed_.wait_for(lock, std::chrono::seconds(1), [&] { return connections_.empty(); })) {
    lock.unlock();
    close_connections(false);
    lock.lock();
    all_closed_.wait(lock, [&] { return connections_.empty(); });
  }
}

void Listener::accept_one() {
  const int fd = ::accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) {
    // Out of descriptors or memory: let some connections end instead of spinning.
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (static_cast<int64_t>(connections_.size()) >= context_.options.max_connections) {
      return shed(fd);
    }
  }
  auto connection = std::make_unique<Connection>(fd, limits_of(context_.options));
  Connection* borrowed = connection.get();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    connections_.insert(borrowed);
  }
  try {
    std::thread([this, borrowed] { serve(*borrowed); }).detach();
    [[maybe_unused]] Connection* owned_by_serve = connection.release();
  } catch (const std::system_error&) {
    const std::lock_guard<std::mutex> lock(mutex_);
    connections_.erase(borrowed);
    context_.metrics.count_shed_connection();
  }
}

void Listener::shed(int fd) {
  context_.metrics.count_shed_connection();
  ApiError error(503, concat("all ", context_.options.max_connections, " connections are in use"));
  error.retry_after_s = 1;
  const std::string response = error_response("503 Service Unavailable", error);
  ::send(fd, response.data(), response.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  ::shutdown(fd, SHUT_WR);
  char scratch[4096];  // what came already must be read, or closing resets the answer away
  while (::recv(fd, scratch, sizeof(scratch), MSG_DONTWAIT) > 0) {
  }
  ::close(fd);
}

void Listener::serve(Connection& connection) {
  for (int served = 1; served <= kMaxRequestsPerConnection; ++served) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      idle_.insert(&connection);
    }
    // Checked after being listed: run() cannot miss a connection that waits here.
    const bool more = !(context_.draining && served > 1) &&
                      connection.wait_for_request(context_.options.keep_alive_timeout_seconds);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      idle_.erase(&connection);
    }
    if (!more) break;
    const bool last = served == kMaxRequestsPerConnection || context_.draining;
    if (!serve_request(connection, last)) break;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  connections_.erase(&connection);
  delete &connection;  // in the lock: close_connections() must not meet a closed descriptor
  if (connections_.empty()) all_closed_.notify_all();
}

bool Listener::serve_request(Connection& connection, bool last) {
  Exchange exchange;
  exchange.connection = &connection;
  exchange.start = std::chrono::steady_clock::now();
  current_exchange = &exchange;
  bool admitted = false;
  bool unread_body = false;
  const auto setup = [&](httplib::Request& request) {
    admit(context_, request, exchange);
    unread_body = exchange.rejection || connection.has_odd_lines() || may_leave_body(request);
    request.ranges.clear();
    request.headers.erase("Range");
    request.path = "/";                     // routed already: see install_handlers()
    request.headers.erase("Content-Type");  // every body is JSON; httplib would parse forms
    // Without a length there is no body (RFC 9112, 6.3); httplib would read to the connection's
    // end.
    if ((request.method == "DELETE" || request.method == "POST") &&
        !request.has_header("Content-Length") && !request.has_header("Transfer-Encoding")) {
      request.headers.emplace("Content-Length", "0");
    }
    if (unread_body) {
      request.headers.erase("Connection");
      request.headers.emplace("Connection", "close");
    }
    if (!exchange.rejection) {
      admitted = exchange.route != nullptr && !exchange.route->open;
      if (admitted) ++context_.active;
      connection.begin_body();
    }
  };
  connection.begin_headers();
  bool closed_by_client = false;
  bool alive = false;
  try {
    alive = process_request(connection, last, closed_by_client, setup);
  } catch (const std::exception&) {
    // A request that httplib itself cannot take; nothing was sent.
    exchange.status = 400;
    send(connection, error_response("400 Bad Request", ApiError(400, kBadRequest)));
  }
  if (admitted) --context_.active;
  if (exchange.status == 0 && exchange.method.empty()) answer_half_line(connection, exchange);
  current_exchange = nullptr;
  finish(exchange, connection);
  // Where a request that could not be read ends is not known.
  const bool unread_input = unread_body || connection.too_large() || exchange.method.empty();
  if (unread_input || (exchange.status >= 400 && !alive)) connection.linger();
  return alive && !closed_by_client && !last && !unread_input && !connection.timed_out();
}

void Listener::finish(const Exchange& exchange, const Connection& connection) {
  if (exchange.status == 0 && exchange.method.empty()) return;  // closed without a request
  const int status = exchange.client_left || exchange.status == 0 ? 499 : exchange.status;
  context_.metrics.count_request(exchange.route != nullptr ? exchange.route->path : "other", status,
                                 exchange.seconds());
  if (!context_.options.on_request) return;
  AccessRecord record;
  int port = 0;
  connection.get_remote_ip_and_port(record.remote, port);
  record.method = exchange.method;
  record.path = exchange.path;
  record.status = status;
  record.seconds = exchange.seconds();
  context_.options.on_request(record);
}

void Listener::close_connections(bool idle_only) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Connection* connection : idle_only ? idle_ : connections_) {
    connection->close_from_outside(!idle_only);
  }
}

// httplib matches paths with std::regex, whose recursion an attacker's long path could overflow, so
// every admitted request has the path "/" here and goes to the handler that admit() found.
void Listener::install_handlers() {
  set_payload_max_length(static_cast<size_t>(context_.options.max_payload_bytes));
  const auto dispatch = [this](const httplib::Request& request, httplib::Response& response) {
    Exchange& exchange = *current_exchange;
    if (context_.options.cors_origin != "") {
      response.set_header("Access-Control-Allow-Origin", context_.options.cors_origin);
    }
    response.set_header("X-Content-Type-Options", "nosniff");
    try {
      exchange.route->handler(context_, exchange, request, response);
    } catch (const ClientGone&) {
      exchange.client_left = true;
      response.status = 499;
    } catch (...) {
      write_error(to_api_error(std::current_exception()), response);
    }
  };
  Get("/", dispatch);
  Post("/", dispatch);
  Delete("/", dispatch);
  Options("/", [this](const httplib::Request&, httplib::Response& response) {
    response.status = 204;
    response.set_header("Allow", "GET, HEAD, POST, DELETE, OPTIONS");
    if (context_.options.cors_origin.empty()) return;
    response.set_header("Access-Control-Allow-Origin", context_.options.cors_origin);
    response.set_header("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS");
    response.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type");
    response.set_header("Access-Control-Max-Age", "600");
  });
  set_pre_routing_handler([](const httplib::Request&, httplib::Response& response) {
    if (!current_exchange->rejection) return HandlerResponse::Unhandled;
    write_error(*current_exchange->rejection, response);
    return HandlerResponse::Handled;
  });
  set_expect_100_continue_handler([](const httplib::Request&, httplib::Response& response) {
    if (!current_exchange->rejection) return 100;
    write_error(*current_exchange->rejection, response);
    return response.status;
  });
  // Statuses that httplib sets by itself get OpenAI's error object too.
  set_error_handler(
      HandlerWithResponse([](const httplib::Request& request, httplib::Response& response) {
        // What could be read of a bad Range header is none for the error; the request is httplib's
        // own.
        const_cast<httplib::Request&>(request).ranges.clear();
        if (!response.body.empty() || response.status == 499) return HandlerResponse::Unhandled;
        const Connection& connection = *current_exchange->connection;
        int status = response.status;
        if (connection.too_large()) status = current_exchange->method.empty() ? 431 : 413;
        if (connection.timed_out()) status = 408;
        const char* message = status == 413   ? "the body is larger than this server accepts"
                              : status == 431 ? "the request's headers are larger than 64 KiB"
                              : status == 408 ? kLateRequest
                              : status == 414 ? kLongAddress
                              : status == 416 ? "the Range header is not valid"
                              : status == 400 ? kBadRequest
                                              : "the request could not be served";
        write_error(ApiError(status, message), response);
        return HandlerResponse::Handled;
      }));
  set_logger([](const httplib::Request&, const httplib::Response& response) {
    current_exchange->status = response.status;
  });
}

}  // namespace quarry::http
