#include "finetune/packer.h"

#include <utility>

#include "data/core/error.h"

namespace quarry {

int64_t TreePacker::find_child(int64_t parent, int32_t token) const {
  for (const int64_t child : parent < 0 ? roots_ : nodes_[static_cast<size_t>(parent)].children) {
    if (nodes_[static_cast<size_t>(child)].token == token) return child;
  }
  return -1;
}

bool TreePacker::add(const TrainingSequence& sequence) {
  if (!empty() && sequence.source != source_) return false;
  const size_t num_rows = sequence.tokens.size() - 1;  // the last token has no row: nothing follows
  size_t shared = 0;
  int64_t node = -1;
  while (shared < num_rows) {
    const int64_t child = find_child(node, sequence.tokens[shared]);
    if (child < 0) break;
    node = child;
    ++shared;
  }
  const int64_t grown = this->num_rows() + static_cast<int64_t>(num_rows - shared);
  if (!empty() && grown > max_rows_) return false;
  source_ = sequence.source;

  std::vector<int64_t> path(num_rows);
  node = -1;
  for (size_t i = 0; i < num_rows; ++i) {
    int64_t next = i < shared ? find_child(node, sequence.tokens[i]) : -1;
    if (next < 0) {
      next = static_cast<int64_t>(nodes_.size());
      nodes_.push_back({sequence.tokens[i], node, {}});
      (node < 0 ? roots_ : nodes_[static_cast<size_t>(node)].children).push_back(next);
    }
    path[i] = node = next;
  }
  for (size_t i = 1; i < sequence.tokens.size(); ++i) {
    if (sequence.is_target[i] != 0) targets_.push_back({path[i - 1], sequence.tokens[i]});
  }
  ++num_sequences_;
  return true;
}

TokenTree TreePacker::take(float target_weight) {
  TokenTree tree;
  tree.source = std::move(source_);
  std::vector<int64_t> row_of(nodes_.size());
  std::vector<int64_t> segment_of(nodes_.size());
  // Depth first, so that a subtree stays in one piece.
  std::vector<int64_t> waiting(roots_.rbegin(), roots_.rend());
  while (!waiting.empty()) {
    const int64_t index = waiting.back();
    waiting.pop_back();
    const Node& node = nodes_[static_cast<size_t>(index)];
    const int64_t row = static_cast<int64_t>(tree.tokens.size());
    const bool goes_on =
        node.parent >= 0 && nodes_[static_cast<size_t>(node.parent)].children.size() == 1;
    if (goes_on) {
      segment_of[static_cast<size_t>(index)] = segment_of[static_cast<size_t>(node.parent)];
      tree.segments.back().end = row + 1;
    } else {
      const int64_t parent = node.parent < 0 ? -1 : segment_of[static_cast<size_t>(node.parent)];
      segment_of[static_cast<size_t>(index)] = static_cast<int64_t>(tree.segments.size());
      tree.segments.push_back({row, row + 1, parent});
    }
    row_of[static_cast<size_t>(index)] = row;
    tree.tokens.push_back(node.token);
    tree.positions.push_back(
        node.parent < 0
            ? 0
            : tree.positions[static_cast<size_t>(row_of[static_cast<size_t>(node.parent)])] + 1);
    waiting.insert(waiting.end(), node.children.rbegin(), node.children.rend());
  }
  for (const Target& target : targets_) {
    tree.targets.push_back({row_of[static_cast<size_t>(target.node)], target.token, target_weight});
  }
  *this = TreePacker(max_rows_);
  return tree;
}

std::vector<TokenTree> pack_sequences(const std::vector<TrainingSequence>& sequences,
                                      int64_t max_rows, bool share, float target_weight) {
  std::vector<TokenTree> trees;
  TreePacker packer(max_rows);
  for (const TrainingSequence& sequence : sequences) {
    if (!packer.empty() && (!share || !packer.add(sequence))) {
      trees.push_back(packer.take(target_weight));
    } else if (!packer.empty()) {
      continue;  // added
    }
    QUARRY_CHECK(packer.add(sequence), ErrorCode::kInternal, "an empty packer refused ",
                 sequence.id);
  }
  if (!packer.empty()) trees.push_back(packer.take(target_weight));
  return trees;
}

}  // namespace quarry
