#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <regex>
#include <set>

#include "api/http/routes.h"

namespace quarry::test {
namespace {

// "METHOD /path" between back quotes; "{id}" stands for what follows a route that ends in '/'.
std::set<std::string> routes_of_the_page() {
  std::ifstream file(QUARRY_SOURCE_DIR "/docs/api.md");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::regex named("`((?:GET|POST|PUT|PATCH|DELETE) /[^` ]*)`");
  const std::regex rest("\\{[a-z]+\\}$");
  std::set<std::string> routes;
  for (std::sregex_iterator match(text.begin(), text.end(), named), end; match != end; ++match) {
    routes.insert(std::regex_replace((*match)[1].str(), rest, ""));
  }
  return routes;
}

TEST(ApiPage, NamesTheRoutesThatThereAre) {
  std::set<std::string> registered;
  for (const http::Route& route : http::routes()) {
    registered.insert(std::string(route.method) + " " + route.path);
  }
  EXPECT_EQ(routes_of_the_page(), registered);
}

}  // namespace
}  // namespace quarry::test
