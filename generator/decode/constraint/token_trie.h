#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/text/tokenizer.h"

namespace quarry {

// The tokens of a vocabulary as a tree over their bytes. Immutable.
class TokenTrie {
 public:
  // Nodes in the order of a walk that visits a node before its children.
  struct Node {
    int32_t end;          // behind the last node below this one
    int32_t first_token;  // index into ids(); its tokens end where the next node's begin
    int32_t depth;        // bytes from the root, from 1
    uint8_t byte;
  };

  // `stop_tokens` end a text and add nothing to it. `starts_text`: the first token begins a text,
  // as IncrementalDecoder has it. Tokens without bytes (special ones) are left out.
  TokenTrie(const Tokenizer& tokenizer, int64_t vocab_size, const std::vector<int32_t>& stop_tokens,
            bool starts_text);

  int64_t vocab_size() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  const std::vector<int32_t>& stop_tokens() const { return stop_tokens_; }
  bool is_stop(int32_t token) const;
  // Empty for a token that is not in the tree. REQUIRES: 0 <= token < vocab_size().
  std::string_view bytes_of(int32_t token) const;
  // A blank at the beginning of the first token is not part of the text.
  bool drops_first_blank() const { return drops_first_blank_; }

  // A last node, below no other, has the end of ids().
  const std::vector<Node>& nodes() const { return nodes_; }
  int32_t num_nodes() const { return static_cast<int32_t>(nodes_.size()) - 1; }
  const std::vector<int32_t>& ids() const { return ids_; }
  int32_t max_depth() const { return max_depth_; }

 private:
  std::string bytes_;                 // of all tokens, by id
  std::vector<size_t> offsets_;       // [vocab_size + 1]
  std::vector<int32_t> stop_tokens_;  // of the vocabulary
  std::vector<Node> nodes_;
  std::vector<int32_t> ids_;  // by bytes
  int32_t max_depth_ = 0;
  bool drops_first_blank_ = false;
};

}  // namespace quarry
