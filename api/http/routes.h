#pragma once

#include <string>
#include <vector>

#include "api/http/context.h"

namespace quarry::http {

// A path and who answers it. A path that ends in '/' (but "/" itself) takes everything below it.
struct Route {
  const char* method;  // "GET" stands for HEAD too
  const char* path;
  Handler handler;
  bool open;  // answered without an API key and while draining
};

const std::vector<Route>& routes();

// Decides what can be decided from a request's line and headers: sets exchange.route, and
// exchange.rejection for 400, 401, 404, 405, 413, 415 and 503. Never throws.
void admit(const ServerContext& context, const httplib::Request& request, Exchange& exchange);

}  // namespace quarry::http
