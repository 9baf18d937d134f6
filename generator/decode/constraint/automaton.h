#pragma once

#include <cstdint>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "generator/decode/constraint/expr.h"
#include "generator/decode/constraint/nfa.h"

namespace quarry {

// Reads texts byte by byte and tells whether they can still become texts of a grammar. A state is
// the set of places in the grammar where a text may stand, each with the calls that it has to
// return from; states are made when they are first come to (as in a lazy DFA; Cox 2010). Calls
// inside each other go kMostCalls deep: deeper texts are refused, and places from which only
// deeper texts lead to an end as well, so that from every state some text leads to the end. One
// thread at a time.
class Automaton {
 public:
  using State = int32_t;
  static constexpr State kDead = -1;  // no text that begins so matches
  static constexpr int32_t kMostCalls = 64;

  // Throws kInvalidArgument: a grammar that is too large, or that no text matches.
  explicit Automaton(const Grammar& grammar);

  State start();
  // REQUIRES: a state of this automaton, not kDead. Throws kInvalidArgument once more than
  // kMostWork places have been looked at since begin_work().
  State next(State state, uint8_t byte) {
    const State known = transitions_[index_of(state, byte)];
    return known != kUnknown ? known : make_next(state, byte);
  }
  // The text so far matches.
  bool accepts(State state) const { return states_[static_cast<size_t>(state)].accepts; }
  // It matches and nothing may follow.
  bool is_complete(State state) const;

  static constexpr int64_t kMostWork = 8'000'000;
  void begin_work() { work_ = 0; }

  // Held for states.
  int64_t bytes() const { return bytes_; }
  // Drops all states: those known to the caller are no longer valid.
  void forget();

 private:
  using Place = uint64_t;  // node, and stack in the upper half
  struct Frame {
    int32_t parent;
    int32_t node;  // where to go on
    int32_t depth;
  };
  struct StateInfo {
    std::vector<Place> places;  // sorted; those that wait for a byte
    bool accepts = false;
  };
  struct StateHash {
    size_t operator()(const std::vector<Place>& places) const;
  };

  static constexpr State kUnknown = -2;

  size_t index_of(State state, uint8_t byte) const {
    return static_cast<size_t>(state) * static_cast<size_t>(nfa_.num_classes) +
           nfa_.class_of_byte[byte];
  }
  State make_next(State state, uint8_t byte);
  State find_or_add(const std::vector<Place>& reached);
  void visit(Place place, StateInfo& info);
  int32_t push_frame(int32_t parent, int32_t node);
  static Place place_of(int32_t node, int32_t stack) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(stack)) << 32) |
           static_cast<uint32_t>(node);
  }

  const Nfa nfa_;
  std::vector<Frame> frames_;                        // [0]: nothing to return to
  std::unordered_map<uint64_t, int32_t> frame_ids_;  // by parent and node
  std::vector<StateInfo> states_;
  std::vector<State> transitions_;  // [states, classes]
  // By places; a flag for accepts() stands in front.
  std::unordered_map<std::vector<Place>, State, StateHash> ids_;
  std::vector<Place> to_visit_;        // scratch
  std::unordered_set<Place> visited_;  // scratch
  State start_ = kUnknown;
  int64_t bytes_ = 0;
  int64_t work_ = 0;
};

}  // namespace quarry
