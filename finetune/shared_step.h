#pragma once

#include <cstdint>
#include <vector>

#include "data/distributed/process_group.h"
#include "finetune/data/sequence.h"
#include "finetune/optimizer.h"
#include "generator/models/causal_lm.h"

// How processes learn one step together: all know the whole batch, each computes some of its
// passes, and what they found is added up. A group that is null is this process alone.
namespace quarry {

int rank_of(const ProcessGroup* group);
int num_ranks(const ProcessGroup* group);

// The rank that computes each of the passes, given their rows: large ones first, each for the rank
// with the least to do.
std::vector<int> deal_passes(const std::vector<int64_t>& rows, int num_ranks);

// Rows of a pass for which `num_passes` passes of `rows` rows in all, at most `max_rows` each,
// become as many for every rank. Where the cut shows in the result, passes stay those of a single
// process unless some rank would have none.
int64_t even_pass_rows(int64_t num_passes, int64_t rows, int64_t max_rows, int num_ranks,
                       bool cut_shows);

struct PassOptions {
  int64_t max_rows = 1024;
  bool share = true;       // beginnings
  bool cut_shows = false;  // dropout is drawn, and gradients in 8 bits are rounded, by pass
  ProcessGroup* group = nullptr;
};
// One pass of a step; those of other ranks are there for their number and targets.
struct StepPass {
  TokenTree tree;
  bool is_own = true;

  int64_t rows() const { return static_cast<int64_t>(tree.source.size() + tree.tokens.size()); }
};

// What cut(max_rows) gives, as many for every rank, each pass told whether it is this rank's. A
// Pass has rows() and is_own.
template <typename Cut>
auto cut_for_ranks(const PassOptions& options, const Cut& cut) {
  auto passes = cut(options.max_rows);
  const int ranks = num_ranks(options.group);
  if (ranks == 1 || passes.empty()) return passes;
  int64_t all_rows = 0;
  for (const auto& pass : passes) all_rows += pass.rows();
  const int64_t even_rows = even_pass_rows(static_cast<int64_t>(passes.size()), all_rows,
                                           options.max_rows, ranks, options.cut_shows);
  if (even_rows != options.max_rows) passes = cut(even_rows);
  std::vector<int64_t> rows;
  for (const auto& pass : passes) rows.push_back(pass.rows());
  const std::vector<int> owners = deal_passes(rows, ranks);
  for (size_t i = 0; i < passes.size(); ++i) {
    passes[i].is_own = owners[i] == rank_of(options.group);
  }
  return passes;
}

// As pack_sequences(), the same on all ranks.
std::vector<StepPass> make_passes(const std::vector<TrainingSequence>& sequences,
                                  const PassOptions& options, float target_weight);

// What all ranks found, added up, in place.
void sum_over_ranks(ProcessGroup* group, std::vector<double>& values);
void sum_over_ranks(ProcessGroup* group, const std::vector<GradientView>& gradients);
// Parameters as rank 0 has them.
void take_from_rank_0(ProcessGroup* group, const std::vector<ParameterView>& parameters);

}  // namespace quarry
