#pragma once

#include <httplib.h>

#include <chrono>
#include <cstdint>
#include <string>

namespace quarry::http {

struct ConnectionLimits {
  int64_t max_header_bytes = int64_t{64} << 10;  // request line and headers together
  int64_t max_body_bytes = 0;                    // as sent, chunk framing included
  double header_timeout_seconds = 10.0;
  double body_timeout_seconds = 60.0;
  double write_timeout_seconds = 10.0;
};

// An accepted socket as httplib reads and writes it. Unlike httplib's own stream it waits with
// poll() (any descriptor number), bounds what a request may send and how long it may take, and can
// tell that the client left. One thread, except close_from_outside().
class Connection : public httplib::Stream {
 public:
  // `fd` is taken over.
  Connection(int fd, const ConnectionLimits& limits);
  ~Connection() override;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Waits for the first byte of a request. False: none came in time, or the client closed.
  bool wait_for_request(double timeout_seconds);
  // Start the byte and time budgets of a request's headers and of its body.
  void begin_headers();
  void begin_body();
  // Whether a budget ran out in this request, and which.
  bool too_large() const { return too_large_; }
  bool timed_out() const { return timed_out_; }
  // Whether a header line of this request ended without a carriage return or went on in the next:
  // httplib drops such lines, so that what the request says of its body is not known.
  bool has_odd_lines() const { return has_odd_lines_; }

  // True once the client closed its end or the connection broke. A client that only closes its
  // sending side counts as gone too.
  bool client_gone() const;

  // Sends the end of our side, then reads and drops what the client still sends for a short time:
  // closing with unread input would reset the connection and could take the answer with it.
  void linger();

  // Unblocks the owner's reads (and writes) for good. Any thread, while the object lives.
  void close_from_outside(bool writes_too);

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* data, size_t size) override;
  ssize_t write(const char* data, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  // httplib compares this with FD_SETSIZE because its own streams use select(); ours do not.
  socket_t socket() const override { return -1; }

 private:
  using Clock = std::chrono::steady_clock;

  ssize_t receive(char* data, size_t size);

  int fd_;
  ConnectionLimits limits_;
  std::string buffer_;  // received, not yet read
  size_t buffer_position_ = 0;
  int64_t budget_bytes_ = 0;
  Clock::time_point deadline_;
  bool too_large_ = false;
  bool timed_out_ = false;
  bool in_headers_ = false;
  bool has_odd_lines_ = false;
  char last_byte_ = 0;  // of the headers
};

}  // namespace quarry::http
