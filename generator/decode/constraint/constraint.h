#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "generator/decode/constraint/automaton.h"
#include "generator/decode/constraint/token_trie.h"

namespace quarry {

// Which tokens may come next.
struct TokenMask {
  std::vector<uint64_t> bits;  // [vocab_size], the lowest bit of a word first
  int64_t num_allowed = 0;

  bool allows(int32_t token) const {
    return (bits[static_cast<size_t>(token) / 64] >> (token % 64) & 1) != 0;
  }
};

// Texts that a generation may give, and the tokens that lead to them. Shared by all requests that
// want the same; thread-safe. What is found out is kept, up to kMostBytes, after which it is found
// out again.
class Constraint {
 public:
  static constexpr int64_t kMostBytes = int64_t{32} << 20;

  // Throws kInvalidArgument: a grammar that is too large or that no text matches, or whose texts
  // no token of the vocabulary begins. Looks at about `most_bytes` of states and masks at a time.
  Constraint(const Grammar& grammar, std::shared_ptr<const TokenTrie> tokens,
             int64_t most_bytes = kMostBytes);

  const TokenTrie& tokens() const { return *tokens_; }

 private:
  friend class ConstraintState;

  // All REQUIRE the lock.
  void drop_if_large();
  std::shared_ptr<const TokenMask> mask(Automaton::State state, bool at_start);
  void walk(int32_t first_node, int32_t last_node, int32_t depth, Automaton::State state,
            TokenMask& mask);
  Automaton::State read(Automaton::State state, std::string_view bytes);

  const std::shared_ptr<const TokenTrie> tokens_;
  const int64_t most_bytes_;
  std::mutex mutex_;  // guards what follows
  Automaton automaton_;
  int64_t generation_ = 0;  // states of earlier ones are no longer valid
  std::unordered_map<int64_t, std::shared_ptr<const TokenMask>> masks_;
  int64_t mask_bytes_ = 0;
  std::vector<Automaton::State> path_;  // scratch of walk()
};

// Where one text stands in its constraint. Values; one thread. Methods throw kInvalidArgument when
// the constraint turns out too complex.
class ConstraintState {
 public:
  // The empty text.
  explicit ConstraintState(std::shared_ptr<Constraint> constraint);

  // Tokens that lead on to a text of the constraint; stop tokens just where the text is one.
  std::shared_ptr<const TokenMask> mask();
  // Sets the logits [vocab_size] of all others to -infinity. Throws kInvalidArgument when none is
  // left: a vocabulary that has no token for what must come.
  void apply(float* logits);
  // The text goes on with `token`. REQUIRES: the mask allows it, and it is no stop token.
  void advance(int32_t token);
  // How many of the tokens, from the first, the constraint allows behind the text.
  size_t count_allowed(const std::vector<int32_t>& tokens);
  // The text is one of the constraint's and nothing may follow.
  bool is_complete();

 private:
  void locate();  // REQUIRES the constraint's lock
  std::string_view bytes_of(int32_t token, bool at_start) const;

  std::shared_ptr<Constraint> constraint_;
  Automaton::State state_ = Automaton::kDead;
  int64_t generation_ = -1;
  std::string text_;
  bool at_start_ = true;
};

}  // namespace quarry
