#include "generator/decode/constraint/constraint.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "data/core/error.h"

namespace quarry {

Constraint::Constraint(const Grammar& grammar, std::shared_ptr<const TokenTrie> tokens,
                       int64_t most_bytes)
    : tokens_(std::move(tokens)), most_bytes_(most_bytes), automaton_(grammar) {
  path_.resize(static_cast<size_t>(tokens_->max_depth()) + 1);
  automaton_.begin_work();
  QUARRY_CHECK(mask(automaton_.start(), true)->num_allowed > 0, ErrorCode::kInvalidArgument,
               "no token of the model's vocabulary begins a text that satisfies the constraint");
}

void Constraint::drop_if_large() {
  if (automaton_.bytes() + mask_bytes_ <= most_bytes_) return;
  automaton_.forget();
  masks_.clear();
  mask_bytes_ = 0;
  ++generation_;
}

Automaton::State Constraint::read(Automaton::State state, std::string_view bytes) {
  for (const char byte : bytes) {
    if (state == Automaton::kDead) break;
    state = automaton_.next(state, static_cast<uint8_t>(byte));
  }
  return state;
}

// Marks the tokens of nodes first_node .. last_node - 1, which stand `depth` bytes or deeper below
// the place of `state`.
void Constraint::walk(int32_t first_node, int32_t last_node, int32_t depth, Automaton::State state,
                      TokenMask& mask) {
  const std::vector<TokenTrie::Node>& nodes = tokens_->nodes();
  const std::vector<int32_t>& ids = tokens_->ids();
  path_[static_cast<size_t>(depth)] = state;
  for (int32_t i = first_node; i < last_node;) {
    const TokenTrie::Node& node = nodes[static_cast<size_t>(i)];
    const auto level = static_cast<size_t>(node.depth);
    const Automaton::State next = automaton_.next(path_[level - 1], node.byte);
    if (next == Automaton::kDead) {
      i = node.end;
      continue;
    }
    path_[level] = next;
    ++i;
    for (int32_t t = node.first_token; t < nodes[static_cast<size_t>(i)].first_token; ++t) {
      const auto id = static_cast<size_t>(ids[static_cast<size_t>(t)]);
      mask.bits[id / 64] |= uint64_t{1} << (id % 64);
      ++mask.num_allowed;
    }
  }
}

std::shared_ptr<const TokenMask> Constraint::mask(Automaton::State state, bool at_start) {
  const bool drops_blank = at_start && tokens_->drops_first_blank();
  std::shared_ptr<const TokenMask>& known = masks_[2 * int64_t{state} + (drops_blank ? 1 : 0)];
  if (known != nullptr) return known;
  auto mask = std::make_shared<TokenMask>();
  mask->bits.resize((static_cast<size_t>(tokens_->vocab_size()) + 63) / 64);
  int32_t blank = 0;
  if (drops_blank) {
    while (blank < tokens_->num_nodes() &&
           tokens_->nodes()[static_cast<size_t>(blank)].byte != ' ') {
      blank = tokens_->nodes()[static_cast<size_t>(blank)].end;
    }
    walk(0, blank, 0, state, *mask);
    // Tokens that begin with the blank, as if it were not there; alone it gives no text.
    const int32_t end = tokens_->nodes()[static_cast<size_t>(blank)].end;
    if (blank < end) walk(blank + 1, end, 1, state, *mask);
    blank = std::max(blank, end);
  }
  walk(blank, tokens_->num_nodes(), 0, state, *mask);
  if (automaton_.accepts(state)) {
    for (const int32_t id : tokens_->stop_tokens()) {
      mask->bits[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64);
      ++mask->num_allowed;
    }
  }
  mask_bytes_ += static_cast<int64_t>(8 * mask->bits.size());
  known = std::move(mask);
  return known;
}

ConstraintState::ConstraintState(std::shared_ptr<Constraint> constraint)
    : constraint_(std::move(constraint)) {}

void ConstraintState::locate() {
  constraint_->drop_if_large();
  constraint_->automaton_.begin_work();
  if (generation_ == constraint_->generation_) return;
  state_ = constraint_->read(constraint_->automaton_.start(), text_);
  generation_ = constraint_->generation_;
}

std::string_view ConstraintState::bytes_of(int32_t token, bool at_start) const {
  std::string_view bytes = constraint_->tokens().bytes_of(token);
  const bool drops_blank = at_start && constraint_->tokens().drops_first_blank();
  if (drops_blank && !bytes.empty() && bytes[0] == ' ') bytes.remove_prefix(1);
  return bytes;
}

std::shared_ptr<const TokenMask> ConstraintState::mask() {
  const std::lock_guard<std::mutex> lock(constraint_->mutex_);
  locate();
  return constraint_->mask(state_, at_start_);
}

void ConstraintState::apply(float* logits) {
  const std::shared_ptr<const TokenMask> allowed = mask();
  QUARRY_CHECK(allowed->num_allowed > 0, ErrorCode::kInvalidArgument,
               "no token of the model's vocabulary continues the text as the constraint wants");
  for (int32_t token = 0; token < constraint_->tokens().vocab_size(); ++token) {
    if (!allowed->allows(token)) logits[token] = -std::numeric_limits<float>::infinity();
  }
}

void ConstraintState::advance(int32_t token) {
  const std::lock_guard<std::mutex> lock(constraint_->mutex_);
  locate();
  const std::string_view bytes = bytes_of(token, at_start_);
  state_ = constraint_->read(state_, bytes);
  QUARRY_CHECK(state_ != Automaton::kDead, ErrorCode::kInternal, "the constraint does not allow \"",
               bytes, "\" behind ", text_.size(), " bytes");
  text_ += bytes;
  at_start_ = false;
}

size_t ConstraintState::count_allowed(const std::vector<int32_t>& tokens) {
  const std::lock_guard<std::mutex> lock(constraint_->mutex_);
  locate();
  Automaton::State state = state_;
  bool at_start = at_start_;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int32_t token = tokens[i];
    // Nothing comes behind a stop token.
    if (constraint_->tokens().is_stop(token)) {
      return constraint_->automaton_.accepts(state) ? i + 1 : i;
    }
    const std::string_view bytes = bytes_of(token, at_start);
    if (bytes.empty()) return i;
    state = constraint_->read(state, bytes);
    if (state == Automaton::kDead) return i;
    at_start = false;
  }
  return tokens.size();
}

bool ConstraintState::is_complete() {
  const std::lock_guard<std::mutex> lock(constraint_->mutex_);
  locate();
  return constraint_->automaton_.is_complete(state_);
}

}  // namespace quarry
