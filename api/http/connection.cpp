#include "api/http/connection.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace quarry::http {
namespace {

constexpr size_t kReceiveBytes = 16384;
// What may be on its way to a client: without a bound the system takes megabytes of a stream that
// nobody reads before the write waits.
constexpr int kSendBytes = 256 << 10;
constexpr double kLingerSeconds = 5.0;
constexpr int64_t kLingerBytes = int64_t{256} << 20;

std::chrono::steady_clock::time_point after(double seconds) {
  return std::chrono::steady_clock::now() +
         std::chrono::duration_cast<std::chrono::steady_clock::duration>(
             std::chrono::duration<double>(seconds));
}

// True when `events` (or an error) came before `deadline`.
bool poll_until(int fd, short events, std::chrono::steady_clock::time_point deadline) {
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd entry{fd, events, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::max<int64_t>(0, left.count() + 1)));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
    if (ready == 0 && left.count() <= 0) return false;
  }
}

void read_address(const sockaddr_storage& address, std::string& ip, int& port) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, &address, sizeof(v4));
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    port = ntohs(v4.sin_port);
  } else if (address.ss_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, &address, sizeof(v6));
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
    port = ntohs(v6.sin6_port);
  }
  ip = text;
}

}  // namespace

Connection::Connection(int fd, const ConnectionLimits& limits) : fd_(fd), limits_(limits) {
  const int on = 1;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  ::setsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &kSendBytes, sizeof(kSendBytes));
}

Connection::~Connection() { ::close(fd_); }

bool Connection::wait_for_request(double timeout_seconds) {
  if (buffer_position_ < buffer_.size()) return true;
  if (!poll_until(fd_, POLLIN, after(timeout_seconds))) return false;
  char byte;
  return ::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

void Connection::begin_headers() {
  budget_bytes_ = limits_.max_header_bytes;
  deadline_ = after(limits_.header_timeout_seconds);
  too_large_ = false;
  timed_out_ = false;
  in_headers_ = true;
  has_odd_lines_ = false;
  last_byte_ = 0;
}

void Connection::begin_body() {
  in_headers_ = false;
  budget_bytes_ = limits_.max_body_bytes;
  deadline_ = after(limits_.body_timeout_seconds);
}

bool Connection::client_gone() const {
  pollfd entry{fd_, POLLRDHUP, 0};
  return ::poll(&entry, 1, 0) > 0 && (entry.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

void Connection::linger() {
  ::shutdown(fd_, SHUT_WR);
  const auto deadline = after(kLingerSeconds);
  int64_t dropped = 0;
  char scratch[kReceiveBytes];
  while (dropped < kLingerBytes && poll_until(fd_, POLLIN, deadline)) {
    const ssize_t n = ::recv(fd_, scratch, sizeof(scratch), MSG_DONTWAIT);
    if (n <= 0 && !(n < 0 && (errno == EINTR || errno == EAGAIN))) return;
    dropped += std::max<ssize_t>(n, 0);
  }
}

void Connection::close_from_outside(bool writes_too) {
  ::shutdown(fd_, writes_too ? SHUT_RDWR : SHUT_RD);
}

bool Connection::is_readable() const {
  pollfd entry{fd_, POLLIN, 0};
  return buffer_position_ < buffer_.size() || ::poll(&entry, 1, 0) > 0;
}

bool Connection::is_writable() const {
  pollfd entry{fd_, POLLOUT, 0};
  return ::poll(&entry, 1, 0) > 0 && (entry.revents & POLLOUT) != 0 && !client_gone();
}

ssize_t Connection::receive(char* data, size_t size) {
  while (true) {
    if (!poll_until(fd_, POLLIN, deadline_)) {
      timed_out_ = true;
      return -1;
    }
    const ssize_t n = ::recv(fd_, data, size, MSG_DONTWAIT);
    if (n >= 0) return n;
    if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) return -1;
  }
}

ssize_t Connection::read(char* data, size_t size) {
  if (size == 0) return 0;
  if (budget_bytes_ <= 0) {
    too_large_ = true;
    return -1;
  }
  if (buffer_position_ == buffer_.size()) {
    buffer_.resize(kReceiveBytes);
    buffer_position_ = 0;
    const ssize_t n = receive(buffer_.data(), buffer_.size());
    buffer_.resize(static_cast<size_t>(std::max<ssize_t>(n, 0)));
    if (n <= 0) return n;
  }
  const size_t taken =
      std::min({size, buffer_.size() - buffer_position_, static_cast<size_t>(budget_bytes_)});
  std::memcpy(data, buffer_.data() + buffer_position_, taken);
  for (size_t i = 0; in_headers_ && i < taken; ++i) {
    const bool is_bare = data[i] == '\n' && last_byte_ != '\r';
    const bool is_fold = last_byte_ == '\n' && (data[i] == ' ' || data[i] == '\t');
    has_odd_lines_ = has_odd_lines_ || is_bare || is_fold;
    last_byte_ = data[i];
  }
  buffer_position_ += taken;
  budget_bytes_ -= static_cast<int64_t>(taken);
  return static_cast<ssize_t>(taken);
}

ssize_t Connection::write(const char* data, size_t size) {
  size_t written = 0;
  while (written < size) {
    const ssize_t n = ::send(fd_, data + written, size - written, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      written += static_cast<size_t>(n);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return -1;
    if (!poll_until(fd_, POLLOUT, after(limits_.write_timeout_seconds))) return -1;
  }
  return static_cast<ssize_t>(written);
}

void Connection::get_remote_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (::getpeername(fd_, reinterpret_cast<sockaddr*>(&address), &size) == 0) {
    read_address(address, ip, port);
  }
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) == 0) {
    read_address(address, ip, port);
  }
}

}  // namespace quarry::http
