#include "data/text/tokenizer.h"
#include "data/text/utf8.h"

namespace quarry {

std::string IncrementalDecoder::push(int32_t id) {
  std::string bytes = tokenizer_->token_bytes(id);
  if (at_start_ && !bytes.empty()) {
    at_start_ = false;
    // decode() of the first token alone leaves out that blank.
    if (bytes.front() == ' ' && tokenizer_->decode({id}).rfind(' ', 0) != 0) bytes.erase(0, 1);
  }
  pending_ += bytes;
  const size_t complete = complete_utf8_prefix(pending_);
  std::string text = repair_utf8(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return text;
}

std::string IncrementalDecoder::finish() {
  std::string text = repair_utf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace quarry
