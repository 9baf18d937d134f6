#include "api/http/sse.h"

namespace quarry::http {

void SseWriter::event(const OrderedJson& data) { write("data: " + dump_json(data) + "\n\n"); }

void SseWriter::done() { write("data: [DONE]\n\n"); }

void SseWriter::ping() { write(": ping\n\n"); }

void SseWriter::write(const std::string& text) {
  if (!sink_.write(text.data(), text.size())) throw ClientGone();
}

void stream_events(Exchange& exchange, httplib::Response& response,
                   std::function<void(SseWriter&)> body) {
  response.status = 200;
  response.set_header("Cache-Control", "no-cache");
  response.set_header("X-Accel-Buffering", "no");
  response.set_chunked_content_provider(
      "text/event-stream", [&exchange, body = std::move(body)](size_t, httplib::DataSink& sink) {
        SseWriter writer(sink);
        try {
          try {
            body(writer);
          } catch (const ClientGone&) {
            throw;
          } catch (...) {
            writer.event(error_body(to_api_error(std::current_exception())));
          }
          sink.done();
          return true;
        } catch (const ClientGone&) {
          exchange.client_left = true;
          return false;
        }
      });
}

}  // namespace quarry::http
