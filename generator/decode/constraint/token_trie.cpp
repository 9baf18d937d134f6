#include "generator/decode/constraint/token_trie.h"

#include <algorithm>

namespace quarry {

TokenTrie::TokenTrie(const Tokenizer& tokenizer, int64_t vocab_size,
                     const std::vector<int32_t>& stop_tokens, bool starts_text) {
  for (const int32_t token : stop_tokens) {
    if (token >= 0 && token < vocab_size) stop_tokens_.push_back(token);
  }
  offsets_.push_back(0);
  for (int32_t id = 0; id < vocab_size; ++id) {
    if (id < tokenizer.vocab_size() && !is_stop(id)) bytes_ += tokenizer.token_bytes(id);
    offsets_.push_back(bytes_.size());
    const std::string_view bytes = bytes_of(id);
    if (bytes.empty()) continue;
    ids_.push_back(id);
    if (starts_text && bytes.size() > 1 && bytes[0] == ' ' && !drops_first_blank_) {
      drops_first_blank_ = tokenizer.decode({id}).rfind(' ', 0) != 0;
    }
  }
  std::sort(ids_.begin(), ids_.end(), [this](int32_t a, int32_t b) {
    const int order = bytes_of(a).compare(bytes_of(b));
    return order != 0 ? order < 0 : a < b;
  });
  std::vector<size_t> open;  // nodes from the root to the newest one
  std::string_view last;
  for (size_t i = 0; i < ids_.size(); ++i) {
    const std::string_view bytes = bytes_of(ids_[i]);
    size_t shared = 0;
    while (shared < last.size() && shared < bytes.size() && last[shared] == bytes[shared]) {
      ++shared;
    }
    for (; open.size() > shared; open.pop_back()) {
      nodes_[open.back()].end = static_cast<int32_t>(nodes_.size());
    }
    for (size_t depth = shared; depth < bytes.size(); ++depth) {
      open.push_back(nodes_.size());
      nodes_.push_back({0, static_cast<int32_t>(i), static_cast<int32_t>(depth) + 1,
                        static_cast<uint8_t>(bytes[depth])});
    }
    max_depth_ = std::max(max_depth_, static_cast<int32_t>(bytes.size()));
    last = bytes;
  }
  for (const size_t node : open) nodes_[node].end = static_cast<int32_t>(nodes_.size());
  nodes_.push_back({0, static_cast<int32_t>(ids_.size()), 0, 0});
}

bool TokenTrie::is_stop(int32_t token) const {
  return std::find(stop_tokens_.begin(), stop_tokens_.end(), token) != stop_tokens_.end();
}

std::string_view TokenTrie::bytes_of(int32_t token) const {
  const auto id = static_cast<size_t>(token);
  return std::string_view(bytes_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
}

}  // namespace quarry
