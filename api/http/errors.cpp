#include "api/http/errors.h"

#include <httplib.h>

#include <algorithm>

#include "data/core/error.h"
#include "data/text/utf8.h"

namespace quarry::http {
namespace {

// The one place where an ErrorCode becomes a status.
int status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return 400;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kUnavailable:
      return 503;
    case ErrorCode::kCorruptData:
    case ErrorCode::kInternal:
      return 500;
  }
  return 500;
}

const char* type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "unavailable_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

// what() ends at a zero byte, so there is none.
std::string readable(std::string message) {
  constexpr size_t kLongest = 1000;
  constexpr size_t kTail = 200;
  if (message.size() > kLongest) {
    message = repair_utf8(message.substr(0, kLongest - kTail)) + " ... " +
              repair_utf8(message.substr(message.size() - kTail));
  }
  std::replace(message.begin(), message.end(), '\0', '?');
  return message;
}

OrderedJson null_if_empty(const std::string& text) {
  return text.empty() ? OrderedJson() : OrderedJson(text);
}

}  // namespace

ApiError::ApiError(int status, const std::string& message)
    : std::runtime_error(readable(message)), status(status) {}

ApiError bad_request(const std::string& param, const std::string& message) {
  ApiError error(400, message);
  error.param = param;
  return error;
}

ApiError context_length_error(const std::string& param, int64_t tokens, int64_t max_tokens) {
  ApiError error(400, concat("This model's maximum context length is ", max_tokens,
                             " tokens, but the request's '", param, "' is ", tokens,
                             " tokens long and room for an answer is needed. Shorten it."));
  error.param = param;
  error.code = "context_length_exceeded";
  return error;
}

ApiError model_not_found(const std::string& model, const std::string& known) {
  ApiError error(404, concat("The model '", model, "' does not exist here; there are: ", known));
  error.param = "model";
  error.code = "model_not_found";
  return error;
}

ApiError engine_busy(const std::string& message, bool draining) {
  if (draining) return shutting_down();
  ApiError error(429, message);
  error.code = "queue_full";
  error.retry_after_s = 1;
  return error;
}

ApiError shutting_down() {
  ApiError error(503, "the server is shutting down");
  error.code = "shutting_down";
  error.retry_after_s = 5;
  return error;
}

ApiError to_api_error(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const ApiError& error) {
    return error;
  } catch (const Error& error) {
    ApiError mapped(status_of(error.code()), error.what());
    if (mapped.status == 503) mapped.retry_after_s = 1;
    if (mapped.status == 500) mapped.code = error_code_name(error.code());
    return mapped;
  } catch (const std::bad_alloc&) {
    ApiError error(503, "not enough memory for this request");
    error.retry_after_s = 1;
    return error;
  } catch (const std::exception& error) {
    return ApiError(500, concat("internal error: ", error.what()));
  } catch (...) {
    return ApiError(500, "internal error of an unknown kind");
  }
}

OrderedJson error_body(const ApiError& error) {
  OrderedJson body;
  body["error"]["message"] = error.what();
  body["error"]["type"] = type_of(error.status);
  body["error"]["param"] = null_if_empty(error.param);
  body["error"]["code"] = null_if_empty(error.code);
  return body;
}

void write_error(const ApiError& error, httplib::Response& response) {
  response.status = error.status;
  response.set_content(dump_json(error_body(error)), "application/json");
  if (error.status == 401) response.set_header("WWW-Authenticate", "Bearer");
  if (!error.allow.empty()) response.set_header("Allow", error.allow);
  if (error.retry_after_s > 0) {
    response.set_header("Retry-After", std::to_string(error.retry_after_s));
  }
  if (!error.repeatable) response.set_header("x-should-retry", "false");
}

}  // namespace quarry::http
