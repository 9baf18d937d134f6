#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/http/errors.h"
#include "data/core/error.h"
#include "data/core/json.h"

namespace quarry::http {

// Reads typed fields of a request's JSON object. A field that is absent or null is nullopt; one of
// the wrong type or out of range throws a 400 that names field, value found and value wanted.
class Fields {
 public:
  // `object` is borrowed. `prefix` ("retrieval.") begins the names in errors.
  explicit Fields(const Json& object, std::string prefix = "")
      : object_(object), prefix_(std::move(prefix)) {}

  const Json* find(const char* name) const;  // null when absent or null
  std::optional<double> number(const char* name, double low, double high) const;
  std::optional<int64_t> integer(const char* name, int64_t low, int64_t high) const;
  std::optional<bool> boolean(const char* name) const;
  std::optional<std::string> string(const char* name) const;

  // For fields that we know and cannot honour: only values that change nothing are accepted.
  void only_zero(const char* name) const;                           // a number equal to 0
  void only_one(const char* name) const;                            // a number equal to 1
  void only_false(const char* name) const;                          // false
  void only_empty(const char* name, const std::string& why) const;  // [], {} or ""

  // `parse(text)` of a string that is one of a few names; its Error becomes one of this field.
  template <typename Parse>
  auto choice(const char* name, const Parse& parse) const
      -> std::optional<decltype(parse(std::string()))> {
    const std::optional<std::string> text = string(name);
    if (!text) return std::nullopt;
    try {
      return parse(*text);
    } catch (const Error& error) {
      throw bad_request(full_name(name), error.what());
    }
  }

  [[noreturn]] void fail(const char* name, const std::string& wanted) const;
  std::string full_name(const char* name) const { return prefix_ + name; }

 private:
  const Json& object_;
  std::string prefix_;
};

// The body as a JSON object. Throws 400 with the byte offset.
Json parse_body(const std::string& body);

}  // namespace quarry::http
