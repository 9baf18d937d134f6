// The HTTP server over a fake model, embedder and index, for the tests that drive it from outside.
//   http_test_server [--port N] [--api-key KEY]     prints "listening on PORT"; SIGTERM ends it.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/api/http_rig.h"

namespace {

quarry::Server* running = nullptr;

}  // namespace

int main(int argc, char** argv) {
  auto model = std::make_unique<quarry::fake::Model>(quarry::test::cited_answer, 4096);
  const auto engine = std::make_shared<quarry::Engine>(
      quarry::fake::make_generator(std::move(model)), quarry::EngineOptions());
  const quarry::Pipeline pipeline(std::make_shared<quarry::test::FakeRetriever>(),
                                  quarry::test::fake_embedder(), engine);
  quarry::ServerOptions options;
  options.port = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--api-key") == 0) options.api_keys.push_back(argv[i + 1]);
    if (std::strcmp(argv[i], "--port") == 0) options.port = std::atoi(argv[i + 1]);
  }
  quarry::Server server(pipeline, options);
  running = &server;
  std::signal(SIGTERM, [](int) { running->stop(); });
  std::printf("listening on %d\n", server.bind());
  std::fflush(stdout);
  server.run();
  return 0;
}
