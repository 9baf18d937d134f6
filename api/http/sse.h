#pragma once

#include <httplib.h>

#include <functional>

#include "api/http/context.h"

namespace quarry::http {

// Server-sent events as OpenAI's clients read them: `data: <JSON>` and a blank line each,
// `data: [DONE]` at the end (HTML Living Standard, section 9.2). One thread.
class SseWriter {
 public:
  explicit SseWriter(httplib::DataSink& sink) : sink_(sink) {}

  // Each throws ClientGone when the client takes no more.
  void event(const OrderedJson& data);
  void done();
  // A comment line: keeps proxies from closing a silent stream.
  void ping();

 private:
  void write(const std::string& text);

  httplib::DataSink& sink_;
};

// Makes `response` a stream that `body` writes, on the connection's thread, after the headers are
// sent. What `body` throws becomes a last event `data: {"error": ...}`, as OpenAI's clients expect;
// ClientGone is only noted in `exchange`, which must live until then.
void stream_events(Exchange& exchange, httplib::Response& response,
                   std::function<void(SseWriter&)> body);

}  // namespace quarry::http
