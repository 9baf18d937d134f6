#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace quarry {

// What went wrong, by who can mend it. api/http/errors.cpp maps a code to an HTTP status and
// api/cli/exit_codes.h to an exit status; nothing else does.
enum class ErrorCode {
  kInvalidArgument,  // the caller's request or configuration is wrong
  kNotFound,         // a named file, model, index, adapter or document is not there
  kCorruptData,      // a file was read and does not hold what its format promises
  kUnavailable,      // a resource is missing for now: disk full, port in use, queue full, cancelled
  kInternal,         // our own bug or a failure of a library we cannot explain
};

const char* error_code_name(ErrorCode code);

// A message of at most 2,000 bytes: of a longer one, which holds a value from some file, the middle
// is left out.
std::string shortened_message(const std::string& message);

// The one exception type that leaves Quarry's functions. `what()` names the thing, the value found
// and the value wanted.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message)
      : std::runtime_error(shortened_message(message)), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// Joins its arguments with operator<<.
template <typename... Parts>
std::string concat(Parts&&... parts) {
  std::ostringstream out;
  (out << ... << std::forward<Parts>(parts));
  return out.str();
}

template <typename... Parts>
[[noreturn]] void throw_error(ErrorCode code, Parts&&... parts) {
  throw Error(code, concat(std::forward<Parts>(parts)...));
}

// Calls `body`, which does not know the file that its input came from: "source: " goes in front of
// the message of an Error.
template <typename Body>
auto naming_source(const std::string& source, const Body& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Error& error) {
    throw_error(error.code(), source, ": ", error.what());
  }
}

}  // namespace quarry

// Checks something that input can make false. The message parts are evaluated only on failure.
#define QUARRY_CHECK(condition, code, ...)        \
  do {                                            \
    if (!(condition)) {                           \
      ::quarry::throw_error((code), __VA_ARGS__); \
    }                                             \
  } while (false)

// Checks an invariant of our own code, never input. Compiled out with NDEBUG.
#ifdef NDEBUG
#define QUARRY_DCHECK(condition) \
  do {                           \
  } while (false)
#else
#define QUARRY_DCHECK(condition)                                                     \
  do {                                                                               \
    if (!(condition)) {                                                              \
      ::quarry::throw_error(::quarry::ErrorCode::kInternal, __FILE__, ":", __LINE__, \
                            ": invariant broken: " #condition);                      \
    }                                                                                \
  } while (false)
#endif
