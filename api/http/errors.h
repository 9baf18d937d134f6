#pragma once

#include <exception>
#include <stdexcept>
#include <string>

#include "data/core/json.h"

namespace httplib {
struct Response;
}

namespace quarry::http {

// An error as the client sees it: an HTTP status and OpenAI's error object
//   {"error": {"message", "type", "param", "code"}}   (param and code may be null).
class ApiError : public std::runtime_error {
 public:
  // A message that is very long, for what a client sent is in it, is cut in its middle.
  ApiError(int status, const std::string& message);

  int status;
  std::string param;       // field of the request at fault; empty: null
  std::string code;        // machine-readable reason; empty: null
  std::string allow;       // 405: methods of the Allow header
  int retry_after_s = 0;   // > 0: Retry-After header
  bool repeatable = true;  // false: x-should-retry: false, repeating is useless
};

// The connection's other end is gone: nothing can be answered.
class ClientGone : public std::exception {
 public:
  const char* what() const noexcept override { return "the client left"; }
};

// 400 that names the field at fault.
ApiError bad_request(const std::string& param, const std::string& message);
ApiError context_length_error(const std::string& param, int64_t tokens, int64_t max_tokens);
ApiError model_not_found(const std::string& model, const std::string& known);
// The engine refused a request: 429 with Retry-After, or 503 while the server drains.
ApiError engine_busy(const std::string& message, bool draining);
ApiError shutting_down();

// Any exception as an ApiError: quarry::Error by its code, everything else 500.
ApiError to_api_error(const std::exception_ptr& exception);

OrderedJson error_body(const ApiError& error);
// Status, headers and body.
void write_error(const ApiError& error, httplib::Response& response);

}  // namespace quarry::http
