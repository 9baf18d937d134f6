#include "api/http/metrics.h"

#include <cmath>
#include <cstdio>

#include "data/core/error.h"

namespace quarry::http {
namespace {

std::string number(double value) {
  char text[40];
  if (value == std::floor(value) && std::fabs(value) < 1e15) {
    std::snprintf(text, sizeof(text), "%lld", static_cast<long long>(value));
  } else {
    std::snprintf(text, sizeof(text), "%.9g", value);
  }
  return text;
}

std::string braces(const std::string& labels) { return labels.empty() ? "" : "{" + labels + "}"; }

}  // namespace

void Histogram::observe(double seconds) {
  size_t bucket = 0;
  while (bucket < kBounds.size() && seconds > kBounds[bucket]) ++bucket;
  const std::lock_guard<std::mutex> lock(mutex_);
  ++counts_[bucket];
  sum_ += seconds;
}

void Histogram::write(const std::string& name, const std::string& labels, std::string& out) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::string prefix = labels.empty() ? "" : labels + ",";
  int64_t total = 0;
  for (size_t i = 0; i <= kBounds.size(); ++i) {
    total += counts_[i];
    const std::string bound = i < kBounds.size() ? number(kBounds[i]) : "+Inf";
    out += concat(name, "_bucket{", prefix, "le=\"", bound, "\"} ", total, "\n");
  }
  out += concat(name, "_sum", braces(labels), " ", number(sum_), "\n");
  out += concat(name, "_count", braces(labels), " ", total, "\n");
}

void Metrics::count_request(const std::string& route, int status, double seconds) {
  Histogram* histogram;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++requests_[{route, status}];
    histogram = &durations_[route];
  }
  histogram->observe(seconds);
}

void Metrics::write(std::string& out) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  write_header("quarry_requests_total", "counter",
               "HTTP requests by route and status; 499: the client left", out);
  for (const auto& [key, count] : requests_) {
    out += concat("quarry_requests_total{route=\"", key.first, "\",code=\"", key.second, "\"} ",
                  count, "\n");
  }
  write_header("quarry_request_duration_seconds", "histogram",
               "Time from a request's headers to the end of its response", out);
  for (const auto& [route, histogram] : durations_) {
    histogram.write("quarry_request_duration_seconds", "route=\"" + route + "\"", out);
  }
  write_header("quarry_ttft_seconds", "histogram",
               "Time from a request's headers to the first generated text", out);
  first_token_.write("quarry_ttft_seconds", "", out);
  write_sample("quarry_connections_shed_total", "counter",
               "Connections refused because max_connections were open",
               static_cast<double>(shed_connections_.load()), out);
}

void write_header(const std::string& name, const char* type, const char* help, std::string& out) {
  out += concat("# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n");
}

void write_sample(const std::string& name, const char* type, const char* help, double value,
                  std::string& out) {
  write_header(name, type, help, out);
  out += concat(name, " ", number(value), "\n");
}

}  // namespace quarry::http
