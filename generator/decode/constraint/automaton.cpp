#include "generator/decode/constraint/automaton.h"

#include <algorithm>
#include <utility>

#include "data/core/error.h"

namespace quarry {

Automaton::Automaton(const Grammar& grammar) : nfa_(build_nfa(grammar)) {
  const int32_t need = nfa_.nodes[static_cast<size_t>(nfa_.rule_starts[0])].need;
  QUARRY_CHECK(need < Nfa::kNever, ErrorCode::kInvalidArgument, "no text satisfies the constraint");
  QUARRY_CHECK(need <= kMostCalls, ErrorCode::kInvalidArgument,
               "the constraint asks for texts nested ", need, " deep, at most ", kMostCalls,
               " are supported");
  forget();
}

size_t Automaton::StateHash::operator()(const std::vector<Place>& places) const {
  uint64_t hash = 0xCBF29CE484222325ULL;
  for (const Place place : places) hash = (hash ^ place ^ (hash >> 29)) * 0x9E3779B97F4A7C15ULL;
  return static_cast<size_t>(hash ^ (hash >> 32));
}

void Automaton::forget() {
  frames_.assign(1, {0, -1, 0});
  frame_ids_.clear();
  states_.clear();
  transitions_.clear();
  ids_.clear();
  start_ = kUnknown;
  bytes_ = 0;
}

bool Automaton::is_complete(State state) const {
  const StateInfo& info = states_[static_cast<size_t>(state)];
  return info.accepts && info.places.empty();
}

Automaton::State Automaton::start() {
  if (start_ == kUnknown) start_ = find_or_add({place_of(nfa_.rule_starts[0], 0)});
  return start_;
}

Automaton::State Automaton::make_next(State state, uint8_t byte) {
  std::vector<Place> reached;
  for (const Place place : states_[static_cast<size_t>(state)].places) {
    const Nfa::Node& node = nfa_.nodes[static_cast<uint32_t>(place)];
    if (byte < node.low || byte > node.high) continue;
    reached.push_back(place_of(node.next, static_cast<int32_t>(place >> 32)));
  }
  work_ += static_cast<int64_t>(states_[static_cast<size_t>(state)].places.size());
  const State next = find_or_add(reached);
  transitions_[index_of(state, byte)] = next;
  return next;
}

Automaton::State Automaton::find_or_add(const std::vector<Place>& reached) {
  StateInfo info;
  visited_.clear();
  to_visit_ = reached;
  while (!to_visit_.empty()) {
    const Place place = to_visit_.back();
    to_visit_.pop_back();
    visit(place, info);
  }
  if (info.places.empty() && !info.accepts) return kDead;
  std::sort(info.places.begin(), info.places.end());
  std::vector<Place> key = {info.accepts ? Place{1} : Place{0}};
  key.insert(key.end(), info.places.begin(), info.places.end());
  const auto [found, is_new] = ids_.try_emplace(std::move(key), static_cast<State>(states_.size()));
  if (!is_new) return found->second;
  constexpr int64_t kWorkOfState = 500;
  work_ += kWorkOfState;
  bytes_ += static_cast<int64_t>(2 * sizeof(Place) * info.places.size() +
                                 sizeof(State) * static_cast<size_t>(nfa_.num_classes) + 128);
  states_.push_back(std::move(info));
  transitions_.resize(states_.size() * static_cast<size_t>(nfa_.num_classes), kUnknown);
  return found->second;
}

void Automaton::visit(Place place, StateInfo& info) {
  ++work_;
  QUARRY_CHECK(work_ <= kMostWork, ErrorCode::kInvalidArgument,
               "the constraint is too complex: a text can stand in too many places of it at once");
  const Nfa::Node& node = nfa_.nodes[static_cast<uint32_t>(place)];
  const auto stack = static_cast<int32_t>(place >> 32);
  const int32_t depth = frames_[static_cast<size_t>(stack)].depth;
  if (node.need > kMostCalls - depth || !visited_.insert(place).second) return;
  switch (node.kind) {
    case Nfa::Node::Kind::kByte:
      info.places.push_back(place);
      break;
    case Nfa::Node::Kind::kSplit:
      if (node.other >= 0) to_visit_.push_back(place_of(node.other, stack));
      if (node.next >= 0) to_visit_.push_back(place_of(node.next, stack));
      break;
    case Nfa::Node::Kind::kCall: {
      const int32_t inside = nfa_.is_tail_call(node) ? stack : push_frame(stack, node.next);
      to_visit_.push_back(place_of(nfa_.rule_starts[static_cast<size_t>(node.other)], inside));
      break;
    }
    case Nfa::Node::Kind::kFinal:
      if (stack == 0) {
        info.accepts = true;
      } else {
        const Frame& frame = frames_[static_cast<size_t>(stack)];
        to_visit_.push_back(place_of(frame.node, frame.parent));
      }
      break;
  }
}

int32_t Automaton::push_frame(int32_t parent, int32_t node) {
  const auto [found, is_new] =
      frame_ids_.try_emplace(place_of(node, parent), static_cast<int32_t>(frames_.size()));
  if (is_new) {
    frames_.push_back({parent, node, frames_[static_cast<size_t>(parent)].depth + 1});
    bytes_ += 64;
  }
  return found->second;
}

}  // namespace quarry
