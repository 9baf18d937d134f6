#include "api/http/server.h"

#include "api/http/context.h"
#include "api/http/listener.h"

namespace quarry {

struct Server::Impl {
  Impl(const Pipeline& pipeline, ServerOptions options_arg)
      : options(std::move(options_arg)), context(pipeline, options), listener(context) {}

  const ServerOptions options;
  http::ServerContext context;
  http::Listener listener;
};

Server::Server(const Pipeline& pipeline, ServerOptions options)
    : impl_(std::make_unique<Impl>(pipeline, std::move(options))) {}

Server::~Server() = default;

int Server::bind() { return impl_->listener.bind(impl_->options.host, impl_->options.port); }

void Server::run() { impl_->listener.run(); }

void Server::stop() noexcept { impl_->listener.stop(); }

}  // namespace quarry
