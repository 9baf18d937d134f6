#include "data/core/error.h"

namespace quarry {

std::string shortened_message(const std::string& message) {
  constexpr size_t kLongest = 2000;
  constexpr size_t kEnd = 500;  // what was wanted
  if (message.size() <= kLongest) return message;
  // Both cuts fall before a character of UTF-8.
  const auto continues = [&](size_t at) {
    return (static_cast<unsigned char>(message[at]) & 0xC0) == 0x80;
  };
  size_t head = kLongest - kEnd - 5;
  while (head > 0 && continues(head)) --head;
  size_t tail = message.size() - kEnd;
  while (tail < message.size() && continues(tail)) ++tail;
  return message.substr(0, head) + " ... " + message.substr(tail);
}

const char* error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid_argument";
    case ErrorCode::kNotFound:
      return "not_found";
    case ErrorCode::kCorruptData:
      return "corrupt_data";
    case ErrorCode::kUnavailable:
      return "unavailable";
    case ErrorCode::kInternal:
      return "internal";
  }
  return "internal";
}

}  // namespace quarry
