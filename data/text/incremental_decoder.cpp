#include "data/text/tokenizer.h"
#include "data/text/utf8.h"

namespace quarry {

std::string IncrementalDecoder::push(int32_t id) {
  pending_ += tokenizer_->token_bytes(id);
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
