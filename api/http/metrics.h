#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace quarry::http {

// Cumulative histogram of seconds. Thread-safe.
class Histogram {
 public:
  static constexpr std::array<double, 14> kBounds = {0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                     0.5,   1,     2.5,  5,     10,   30,  60};

  void observe(double seconds);
  // Prometheus lines `name_bucket{labels,le=..}`, `name_sum`, `name_count`; `labels` is empty or
  // `key="value"` pairs joined by commas.
  void write(const std::string& name, const std::string& labels, std::string& out) const;

 private:
  mutable std::mutex mutex_;
  std::array<int64_t, kBounds.size() + 1> counts_{};  // last: beyond every bound
  double sum_ = 0.0;
};

// What the server itself counts; the engine and the index are asked when /metrics is read.
class Metrics {
 public:
  void count_request(const std::string& route, int status, double seconds);
  void observe_first_token(double seconds) { first_token_.observe(seconds); }
  void count_shed_connection() { ++shed_connections_; }

  // Prometheus text format 0.0.4.
  void write(std::string& out) const;

 private:
  mutable std::mutex mutex_;                                 // guards the two maps
  std::map<std::pair<std::string, int>, int64_t> requests_;  // route and status
  std::map<std::string, Histogram> durations_;
  Histogram first_token_;
  std::atomic<int64_t> shed_connections_{0};
};

// `# HELP`, `# TYPE` and one sample.
void write_sample(const std::string& name, const char* type, const char* help, double value,
                  std::string& out);
void write_header(const std::string& name, const char* type, const char* help, std::string& out);

}  // namespace quarry::http
