#include "finetune/packer.h"

#include <gtest/gtest.h>

#include <map>

namespace quarry {
namespace {

TrainingSequence sequence(const std::string& id, std::vector<int32_t> tokens, size_t targets) {
  TrainingSequence result;
  result.id = id;
  result.is_target.assign(tokens.size(), 0);
  for (size_t i = tokens.size() - targets; i < tokens.size(); ++i) result.is_target[i] = 1;
  result.tokens = std::move(tokens);
  return result;
}

// The tokens on the path to a row.
std::vector<int32_t> path_to(const TokenTree& tree, int64_t row) {
  size_t segment = 0;
  while (tree.segments[segment].end <= row) ++segment;
  std::vector<int32_t> tokens;
  if (tree.segments[segment].parent >= 0) {
    const auto& parent = tree.segments[static_cast<size_t>(tree.segments[segment].parent)];
    tokens = path_to(tree, parent.end - 1);
  }
  for (int64_t r = tree.segments[segment].begin; r <= row; ++r) {
    EXPECT_EQ(tree.positions[static_cast<size_t>(r)], static_cast<int32_t>(tokens.size()));
    tokens.push_back(tree.tokens[static_cast<size_t>(r)]);
  }
  return tokens;
}

// (what comes before, what should follow) of every target, with how often it is there.
std::map<std::pair<std::vector<int32_t>, int32_t>, int> lessons(
    const std::vector<TokenTree>& trees) {
  std::map<std::pair<std::vector<int32_t>, int32_t>, int> all;
  for (const TokenTree& tree : trees) {
    for (const TokenTree::Target& target : tree.targets) {
      ++all[{path_to(tree, target.row), target.token}];
    }
  }
  return all;
}

std::map<std::pair<std::vector<int32_t>, int32_t>, int> lessons(
    const std::vector<TrainingSequence>& sequences) {
  std::map<std::pair<std::vector<int32_t>, int32_t>, int> all;
  for (const TrainingSequence& s : sequences) {
    for (size_t i = 1; i < s.tokens.size(); ++i) {
      if (s.is_target[i] == 0) continue;
      ++all[{std::vector<int32_t>(s.tokens.begin(), s.tokens.begin() + static_cast<int64_t>(i)),
             s.tokens[i]}];
    }
  }
  return all;
}

std::vector<TrainingSequence> some_sequences() {
  return {sequence("a", {1, 2, 3, 4, 5, 6}, 2), sequence("b", {1, 2, 3, 7, 8}, 2),
          sequence("c", {1, 2, 3, 4, 9}, 1),    sequence("d", {5, 6, 7}, 1),
          sequence("e", {1, 2, 3, 7, 8}, 2),    sequence("f", {1, 2}, 1)};
}

TEST(Packer, SharesBeginningsAndKeepsEveryLesson) {
  const auto sequences = some_sequences();
  const auto trees = pack_sequences(sequences, 1000, true, 0.5f);
  ASSERT_EQ(trees.size(), 1u);
  const TokenTree& tree = trees[0];
  // 1 2 3 | 4 5 | 7 | and 5 6: the last token of each sequence has no row.
  EXPECT_EQ(tree.tokens.size(), 8u);
  EXPECT_EQ(tree.segments.size(), 4u);
  int64_t next = 0;
  for (size_t i = 0; i < tree.segments.size(); ++i) {
    EXPECT_EQ(tree.segments[i].begin, next);
    EXPECT_LT(tree.segments[i].parent, static_cast<int64_t>(i));
    next = tree.segments[i].end;
  }
  EXPECT_EQ(next, 8);
  EXPECT_EQ(lessons(trees), lessons(sequences));
  for (const TokenTree::Target& target : tree.targets) EXPECT_EQ(target.weight, 0.5f);
}

TEST(Packer, CutsAtTheRowLimitAndGivesALongSequenceATreeOfItsOwn) {
  auto sequences = some_sequences();
  sequences.push_back(sequence("long", {9, 9, 9, 9, 9, 9, 9, 9, 9, 9}, 3));
  const auto trees = pack_sequences(sequences, 6, true, 1.0f);
  EXPECT_GT(trees.size(), 1u);
  for (const TokenTree& tree : trees) {
    EXPECT_TRUE(tree.tokens.size() <= 6 || tree.segments.size() == 1) << tree.tokens.size();
  }
  EXPECT_EQ(lessons(trees), lessons(sequences));
}

TEST(Packer, SharesNothingWhenToldSo) {
  const auto sequences = some_sequences();
  const auto trees = pack_sequences(sequences, 1000, false, 1.0f);
  ASSERT_EQ(trees.size(), sequences.size());
  for (size_t i = 0; i < trees.size(); ++i) {
    EXPECT_EQ(trees[i].tokens.size() + 1, sequences[i].tokens.size());
    EXPECT_EQ(trees[i].segments.size(), 1u);
  }
  EXPECT_EQ(lessons(trees), lessons(sequences));
}

TEST(Packer, RefusedSequenceLeavesThePackerAsItWas) {
  TreePacker packer(6);
  EXPECT_TRUE(packer.add(sequence("a", {1, 2, 3, 4}, 1)));
  EXPECT_FALSE(packer.add(sequence("b", {5, 6, 7, 8, 9}, 1)));
  EXPECT_EQ(packer.num_rows(), 3);
  const TokenTree tree = packer.take(1.0f);
  EXPECT_EQ(tree.tokens, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_TRUE(packer.empty());
}

TEST(TreePacker, ATreeHasOneSourceWhoseRowsCount) {
  std::vector<TrainingSequence> sequences = {sequence("a", {0, 5, 6, 1}, 3),
                                             sequence("b", {0, 5, 7, 1}, 3),
                                             sequence("c", {0, 5, 6, 1}, 3)};
  sequences[0].source = sequences[1].source = {9, 8, 7};
  sequences[2].source = {9, 8};
  const std::vector<TokenTree> trees = pack_sequences(sequences, 100, true, 1.0f);
  ASSERT_EQ(trees.size(), 2u);
  EXPECT_EQ(trees[0].source, sequences[0].source);
  EXPECT_EQ(trees[0].tokens.size(), 4u);
  EXPECT_EQ(trees[0].targets.size(), 6u);
  EXPECT_EQ(trees[1].source, sequences[2].source);
  EXPECT_EQ(trees[1].tokens.size(), 3u);
  EXPECT_EQ(pack_sequences(sequences, 7, true, 1.0f).size(), 2u);  // 3 rows and 4
  EXPECT_EQ(pack_sequences(sequences, 6, true, 1.0f).size(), 3u);
}

}  // namespace
}  // namespace quarry
