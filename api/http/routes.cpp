#include "api/http/routes.h"

#include <cstring>

#include "api/http/auth.h"

namespace quarry::http {
namespace {

bool path_matches(const Route& route, const std::string& path) {
  const size_t length = std::strlen(route.path);
  if (length > 1 && route.path[length - 1] == '/') {
    return path.size() > length && path.compare(0, length, route.path) == 0;
  }
  return path == route.path;
}

bool method_matches(const Route& route, const std::string& method) {
  return method == route.method || (method == "HEAD" && std::strcmp(route.method, "GET") == 0);
}

ApiError method_error(const std::string& method, const std::string& path,
                      const std::string& allow) {
  ApiError error(405, concat("method ", method, " is not allowed for ", path, "; use ", allow));
  error.allow = allow;
  return error;
}

// Sets exchange.route, or throws 404 or 405.
void find_route(Exchange& exchange) {
  std::string allow;
  for (const Route& route : routes()) {
    if (!path_matches(route, exchange.path)) continue;
    if (method_matches(route, exchange.method)) {
      exchange.route = &route;
      const size_t length = std::strlen(route.path);
      if (exchange.path.size() > length) exchange.path_tail = exchange.path.substr(length);
      return;
    }
    allow += std::strcmp(route.method, "GET") == 0 ? "GET, HEAD, " : concat(route.method, ", ");
  }
  if (allow.empty()) throw ApiError(404, "no such path: " + exchange.path);
  throw method_error(exchange.method, exchange.path, allow + "OPTIONS");
}

// `curl -d` names its body a form; a browser may send that type to any site without asking, so with
// an Origin only application/json is taken (which browsers ask leave for).
void check_content_type(const httplib::Request& request) {
  const std::string type = request.get_header_value("Content-Type");
  const std::string kind = type.substr(0, type.find(';'));
  if (kind == "application/json") return;
  const bool from_browser = request.has_header("Origin");
  if (!from_browser && (kind.empty() || kind == "application/x-www-form-urlencoded")) return;
  throw ApiError(415, "Content-Type is '" + type + "', expected application/json");
}

// What may be understood in two ways would let one request hide in another (RFC 9112, 6.3).
void check_framing(const httplib::Request& request) {
  const size_t count = request.get_header_value_count("Content-Length") +
                       request.get_header_value_count("Transfer-Encoding");
  if (count > 1) {
    throw ApiError(400, "the request has more than one of Content-Length and Transfer-Encoding");
  }
  for (const auto& [name, value] : request.headers) {
    if (name.find_first_of(" \t") == std::string::npos) continue;
    throw ApiError(400, "the header name '" + name.substr(0, 100) + "' holds a blank");
  }
  const std::string length = request.get_header_value("Content-Length");
  if (length.find_first_not_of("0123456789") != std::string::npos) {
    throw ApiError(400, "Content-Length is '" + length.substr(0, 100) + "', expected a number");
  }
  const std::string coding = request.get_header_value("Transfer-Encoding");
  if (!coding.empty() && coding != "chunked") {
    throw ApiError(400, "Transfer-Encoding is '" + coding + "', expected chunked");
  }
}

void check_body_headers(const ServerContext& context, const httplib::Request& request) {
  const std::string encoding = request.get_header_value("Content-Encoding");
  if (!encoding.empty() && encoding != "identity") {
    throw ApiError(415, "Content-Encoding '" + encoding + "' is not supported; send plain JSON");
  }
  check_content_type(request);
  const std::string length = request.get_header_value("Content-Length");
  if (length.empty()) return;  // no body, or chunks, which are counted while they are read
  if (length.size() > 18 || std::stoll(length) > context.options.max_payload_bytes) {
    throw ApiError(413, concat("the body has ", length, " bytes, at most ",
                               context.options.max_payload_bytes, " are accepted"));
  }
}

}  // namespace

const std::vector<Route>& routes() {
  static const std::vector<Route> kRoutes = {
      {"POST", "/v1/chat/completions", handle_chat, false},
      {"POST", "/v1/completions", handle_completion, false},
      {"POST", "/v1/embeddings", handle_embeddings, false},
      {"POST", "/v1/search", handle_search, false},
      {"GET", "/v1/models", handle_models, false},
      {"GET", "/v1/models/", handle_model, false},
      {"GET", "/v1/adapters", handle_adapters, false},
      {"POST", "/v1/adapters", handle_adapter_load, false},
      {"POST", "/v1/adapters/combine", handle_adapter_combine, false},
      {"POST", "/v1/adapters/fuse", handle_adapter_fuse, false},
      {"POST", "/v1/adapters/unfuse", handle_adapter_unfuse, false},
      {"DELETE", "/v1/adapters/", handle_adapter_remove, false},
      {"GET", "/documents", handle_document, false},
      {"GET", "/metrics", handle_metrics, false},
      {"GET", "/healthz", handle_health, true},
      {"GET", "/readyz", handle_ready, true},
      {"GET", "/", handle_page, true},
      {"GET", "/page.css", handle_page, true},
      {"GET", "/page.js", handle_page, true},
      {"GET", "/source", handle_page, true},
  };
  return kRoutes;
}

void admit(const ServerContext& context, const httplib::Request& request, Exchange& exchange) {
  try {
    exchange.method = request.method;
    exchange.path = request.path;
    check_framing(request);
    if (request.method == "OPTIONS") return;
    find_route(exchange);
    if (exchange.route->open) return;
    const std::optional<ApiError> denied =
        check_api_key(context.options.api_keys, request.get_header_value("Authorization"));
    if (denied) throw *denied;
    const bool reads_metrics = exchange.route->handler == handle_metrics;
    if (context.draining && !reads_metrics) throw shutting_down();
    if (request.method == "POST") check_body_headers(context, request);
  } catch (...) {
    exchange.rejection = to_api_error(std::current_exception());
  }
}

}  // namespace quarry::http
