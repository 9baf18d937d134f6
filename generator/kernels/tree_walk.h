#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "data/core/error.h"
#include "generator/kernels/tree_attention.h"

// How tree_attention*.cpp go through a forest of segments.
namespace quarry::kernels {

// Where each segment stands on its path.
struct Paths {
  std::vector<int64_t> start;  // rows before the segment on its path
  int64_t longest = 0;         // rows of the longest path
  int64_t num_rows = 0;
};

inline Paths find_paths(const std::vector<TreeSegment>& segments) {
  Paths paths;
  for (const TreeSegment& segment : segments) {
    QUARRY_DCHECK(segment.begin == paths.num_rows && segment.end > segment.begin);
    QUARRY_DCHECK(segment.parent < static_cast<int64_t>(paths.start.size()));
    int64_t start = 0;
    if (segment.parent >= 0) {
      const TreeSegment& parent = segments[static_cast<size_t>(segment.parent)];
      start = paths.start[static_cast<size_t>(segment.parent)] + parent.end - parent.begin;
    }
    paths.start.push_back(start);
    paths.longest = std::max(paths.longest, start + segment.end - segment.begin);
    paths.num_rows = segment.end;
  }
  return paths;
}

// Where each tree of the forest begins, and the end of the last.
inline std::vector<size_t> find_roots(const std::vector<TreeSegment>& segments) {
  std::vector<size_t> roots;
  for (size_t index = 0; index < segments.size(); ++index) {
    if (segments[index].parent < 0) roots.push_back(index);
  }
  roots.push_back(segments.size());
  return roots;
}

// Walks segments [first, last), a root and all that hangs on it, for one head. Calls, on `head`,
//   enter(segment, start)      its rows now stand behind those of its ancestors
//   attend(row, count, past)   for its rows, up to Head::kQueryTile at a time: `past` rows of their
//                              path come before the first of them
//   leave(segment, start)      when its subtree is done
template <typename Head>
void walk_tree(const std::vector<TreeSegment>& segments, const Paths& paths, size_t first,
               size_t last, Head& head) {
  std::vector<int64_t> open;  // segments from the root to the current one
  const auto leave_last = [&] {
    const auto index = static_cast<size_t>(open.back());
    head.leave(segments[index], paths.start[index]);
    open.pop_back();
  };
  for (size_t index = first; index < last; ++index) {
    const TreeSegment& segment = segments[index];
    while (!open.empty() && open.back() != segment.parent) leave_last();
    const int64_t start = paths.start[index];
    head.enter(segment, start);
    open.push_back(static_cast<int64_t>(index));
    for (int64_t row = segment.begin; row < segment.end; row += Head::kQueryTile) {
      const int64_t count = std::min(Head::kQueryTile, segment.end - row);
      head.attend(row, count, start + row - segment.begin);
    }
  }
  while (!open.empty()) leave_last();
}

// Gradients of keys and values, of each query head on its own [H, num_rows, D], summed in a fixed
// order into the columns of dqkv that are theirs.
void sum_head_parts(const TreeAttentionShape& shape, int64_t num_rows, const float* key_parts,
                    const float* value_parts, float* dqkv);

}  // namespace quarry::kernels
